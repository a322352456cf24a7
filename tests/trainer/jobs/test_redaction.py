"""What is taken out of a log, and what must stay readable."""

from __future__ import annotations

import pytest

from trainer.jobs.redaction import redaction

OURS = "bicycle-42"
# in pieces, so that no scanner of this repository takes them for real ones
HUB, FORGE, CLOUD, KEY = (
    "hf" + "_" + "a1B2" * 8,
    "ghp" + "_" + "a1B2" * 9,
    "AKIA" + "Q7" * 8,
    "sk" + "-proj-" + "a1B2" * 8,
)
CLAIMS = "eyJ" + "hbGciOiJI.eyJ" + "zdWIiOiIx.c2lnbmF0" + "dXJl"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (f"it is {OURS}!", "it is [redacted]!"),
        ("redis://trainer:hunter2@redis:6379/0", "redis://trainer:[redacted]@redis:6379/0"),
        ("redis://:hunter2@redis", "redis://:[redacted]@redis"),
        ("REDIS_PASSWORD=hunter2 next", "REDIS_PASSWORD=[redacted] next"),
        ("{'password': 'hunter2', 'user': 'me'}", "{'password': '[redacted]', 'user': 'me'}"),
        ('"client_secret": "hunter2"', '"client_secret": "[redacted]"'),
        ("api-key = hunter2", "api-key = [redacted]"),
        ("auth_token=a1b2c3d4e5f6a7b8c9", "auth_token=[redacted]"),
        ("Authorization: Bearer a1b2c3d4e5f6a7b8c9", "Authorization: Bearer [redacted]"),
        *((f"got {token}.", "got [redacted].") for token in (HUB, FORGE, CLOUD, KEY, CLAIMS)),
    ],
)
def test_secret_is_taken_out_and_the_rest_stays(line: str, left: str) -> None:
    assert redaction([OURS])(line.encode()).decode() == left


@pytest.mark.parametrize(
    "line",
    [
        "step 00012 (12.3%) | loss: 3.123456 | lrm: 1.00 | dt: 123ms | tok/sec: 123,456 | mfu: 12.30",
        "total_tokens_M:   12.3",
        "tokens_per_s=123456 num_tokens: 65536 token=17",
        "eos_token: <|endoftext|> pad_token=<pad> token_bytes.npy",
        "bos_token = 1234567890",
        "a task-sk-x, a disk-space-of-the-machine-is-low, hf_hub_download(repo)",
        "https://host:8080/path?query=1 @ noon",
        'File "/srv/e-1-t1-a1/subject/train.py", line 12, in <module>',
        "x" * 5000,
    ],
)
def test_line_of_an_honest_log_stays_as_it_is(line: str) -> None:
    assert redaction([OURS, "", "short"])(line.encode()).decode() == line
