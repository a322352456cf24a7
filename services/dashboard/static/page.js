// Keeps the first screen and the list of requests up to date. The server renders them; this script puts them in place.
"use strict";

(() => {
  const sent = document.getElementById("sent");
  if (sent) {
    setInterval(async () => {
      const answer = await fetch(sent.dataset.refresh).catch(() => null); // without a server the list stays as it is
      if (answer?.ok) sent.innerHTML = await answer.text();
    }, 2000);
  }
  for (const form of document.querySelectorAll("form[data-question]")) {
    form.addEventListener("submit", (event) => { if (!confirm(form.dataset.question)) event.preventDefault(); });
  }
  for (const input of document.querySelectorAll("input[data-into]")) {
    input.addEventListener("change", async () => {
      const [file] = input.files;
      if (file) document.getElementById(input.dataset.into).value = await file.text();
    });
  }
})();

(() => {
  const live = document.getElementById("live");
  if (!live) return;
  const offline = document.getElementById("offline");
  const seen = document.getElementById("seen");
  let mark = null;
  let last = new Date();

  const stream = new EventSource("/events");
  stream.addEventListener("live", (event) => {
    const data = JSON.parse(event.data);
    const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    live.innerHTML = data.html; // the server has escaped every text in it
    if (focused) [...live.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
    if (mark !== null && mark !== data.mark) document.dispatchEvent(new Event("experiments-changed"));
    mark = data.mark;
    last = new Date();
    offline.hidden = true;
  });
  stream.addEventListener("error", () => {
    seen.textContent = last.toLocaleTimeString();
    offline.hidden = false;
  });
  stream.addEventListener("open", () => { offline.hidden = true; });
})();
