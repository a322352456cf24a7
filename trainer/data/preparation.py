"""`prepare` makes the data folder of a profile from a text, in steps that survive a kill at any moment.

The steps are plan, fetch, tokenizer, rows of each split, manifest. A finished step leaves a whole file and a record of
its hash in `private/work`; the next call continues after the last record. A folder never holds two texts: another text
is refused. All files that a candidate must not read, including downloads, are in `private` (mode 0700).
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from tokenizers import Tokenizer

from trainer.data.documents import SPLITS, Disjoint, PreparationStep, Report, Slice, Text
from trainer.data.durable import file_sha256, write_whole
from trainer.data.errors import DataError, FolderTaken, NotPrepared
from trainer.data.generated import GENERATED, upgrade
from trainer.data.manifest import (
    MANIFEST,
    ROWS,
    TOKEN_BYTES,
    TOKENIZER,
    Manifest,
    files_digest,
    load_manifest,
    verify,
    write_manifest,
)
from trainer.data.owntext import OwnText, own_text, private_name
from trainer.data.packing import Packed, Packing, Plan, pack_split, pack_unseen, watched
from trainer.data.plays import Plays
from trainer.data.rights import give_rights
from trainer.data.shards import BASE_URL, BASE_URL_KEY, TRAIN_SHARDS, Climbmix
from trainer.data.tokenizer import load_tokenizer, token_bytes, train_tokenizer
from trainer.jobs import Profile


def prepare(
    profile: Profile,
    folder: Path,
    *,
    text: Path | None = None,
    unseen: Path | None = None,
    base_url: str | None = None,
    train_shards: int = TRAIN_SHARDS,
    report: Report = lambda step: None,
) -> Manifest:
    """Make `folder` the data folder of `profile`, or verify it, and return its manifest. Raise DataError.

    `text` is a folder of the user's own text files. `unseen` is a folder of private files for the unseen slice; without
    it the present slice stays, or one is generated. Without `base_url` the shards come from `OVERNIGHT_SHARDS_URL`, or
    else from their hub.
    """
    try:
        with _claimed(folder):
            chosen = _choose_text(profile, folder, text, base_url, train_shards)
            upgrade(folder)
            private = None if unseen is None else own_text(unseen)
            named = _unseen_before(folder) if private is None else private_name(private)
            plan = Plan(chosen.name, chosen.source, profile.context, profile.vocab_size, named)
            packing = Packing(folder, plan, report)
            manifest = _finished(packing, profile) or _make(packing, profile, chosen, private)
            give_rights(folder)
            return manifest
    except OSError as error:
        raise DataError(
            f"preparing {folder} stopped: {error}; make room or give rights there, then run `overnight prepare` again: "
            "it goes on where it stopped"
        ) from error


def _unseen_before(folder: Path) -> str:
    """Return the description of the unseen slice, from the manifest or an unfinished plan. The default is GENERATED."""
    plan_file = folder / "private" / "work" / "plan.json"
    if (folder / MANIFEST).exists():
        return load_manifest(folder).unseen
    return _PLAN.validate_json(plan_file.read_bytes()).unseen if plan_file.exists() else GENERATED


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    private = folder / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    private.chmod(0o700)
    with (private / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(f"another process is preparing {folder}; wait for it to end") from None
        yield


def _choose_text(profile: Profile, folder: Path, text: Path | None, base_url: str | None, train_shards: int) -> Text:
    downloads = folder / "private" / "source"
    if text is not None:
        return own_text(text)
    downloads.mkdir(exist_ok=True)
    if profile.text == "plays":
        return Plays(downloads)
    if profile.text == "climbmix":
        return Climbmix(downloads, base_url or os.environ.get(BASE_URL_KEY) or BASE_URL, train_shards)
    raise DataError(f"profile {profile.name} names the text {profile.text!r}; known are plays and climbmix")


def _finished(packing: Packing, profile: Profile) -> Manifest | None:
    """Return the manifest if the folder is finished and intact, otherwise None.

    Profiles that differ only in their name share their data.
    """
    if not (packing.folder / MANIFEST).exists():
        return None
    manifest = load_manifest(packing.folder)
    found = Plan(manifest.text, manifest.source, manifest.context, manifest.vocab_size, manifest.unseen)
    _refuse_unless_same(packing, found)
    try:
        verify(packing.folder)
    except NotPrepared as damage:
        packing.report(PreparationStep("repair", 0, None, "files", note=f"made again: {damage}"))
        _write_plan(packing)
        (packing.folder / MANIFEST).unlink()
        return None
    if manifest.profile != profile.name:
        manifest = replace(manifest, profile=profile.name)
        write_manifest(packing.folder, manifest)
    packing.report(
        PreparationStep("ready", 1, 1, "folder", note=f"nothing to do: {packing.folder} is prepared and intact")
    )
    return manifest


def _make(packing: Packing, profile: Profile, text: Text, private: OwnText | None) -> Manifest:
    _keep_to_plan(packing)
    text.fetch(packing.report)
    disjoint = Disjoint(text)
    tokenizer = _make_tokenizer(packing, disjoint)
    packed: dict[Slice, Packed] = {split: pack_split(packing, disjoint, tokenizer, split) for split in SPLITS}
    packed["unseen"] = pack_unseen(packing, tokenizer, private)
    manifest = _manifest(packing, profile, text, packed)
    write_manifest(packing.folder, manifest)
    shutil.rmtree(packing.work)
    packing.report(PreparationStep("ready", 1, 1, "folder", note=f"{packing.folder} is prepared; {manifest.how_split}"))
    return manifest


def _keep_to_plan(packing: Packing) -> None:
    plan_file = packing.work / "plan.json"
    if plan_file.exists():
        _refuse_unless_same(packing, _PLAN.validate_json(plan_file.read_bytes()))
    else:
        _write_plan(packing)


def _write_plan(packing: Packing) -> None:
    packing.work.mkdir(exist_ok=True)
    write_whole(packing.work / "plan.json", _PLAN.dump_json(packing.plan))


def _refuse_unless_same(packing: Packing, found: Plan) -> None:
    if found != packing.plan:
        raise FolderTaken(
            f"{packing.folder} holds data made from {found}, asked for is {packing.plan}; "
            "name another folder, or remove this one to recreate it"
        )


def _make_tokenizer(packing: Packing, disjoint: Disjoint) -> Tokenizer:
    path, record = packing.folder / TOKENIZER, packing.work / "tokenizer.sha256"
    if not (record.exists() and path.exists() and file_sha256(path) == record.read_text(encoding="utf-8")):
        total = disjoint.text.count("train")
        documents = watched(
            disjoint.documents("train"), PreparationStep("tokenizer", 0, total, "documents"), packing.report
        )
        trained = train_tokenizer(documents, packing.plan.vocab_size)
        write_whole(path, trained.to_str().encode())
        write_whole(record, file_sha256(path).encode())
    tokenizer = load_tokenizer(path)
    table = io.BytesIO()
    np.save(table, token_bytes(tokenizer))
    write_whole(packing.folder / TOKEN_BYTES, table.getvalue())
    return tokenizer


def _manifest(packing: Packing, profile: Profile, text: Text, packed: dict[Slice, Packed]) -> Manifest:
    splits = {split: packed[split] for split in SPLITS}
    sha256 = {ROWS[name]: made.sha256 for name, made in packed.items()}
    sha256 |= {name: file_sha256(packing.folder / name) for name in (TOKENIZER, TOKEN_BYTES)}
    return Manifest(
        profile=profile.name,
        text=text.name,
        source=text.source,
        how_split=text.how_split,
        context=packing.plan.context,
        vocab_size=packing.plan.vocab_size,
        rows={name: made.rows for name, made in packed.items()},
        documents={split: made.documents for split, made in splits.items()},
        bytes={name: made.bytes for name, made in packed.items()},
        left_out={split: made.left_out for split, made in splits.items()},
        dropped_tokens={split: made.dropped_tokens for split, made in splits.items()},
        sizes={name: (packing.folder / name).stat().st_size for name in sha256},
        sha256=sha256,
        digest=files_digest(sha256),
        unseen=packing.plan.unseen,
    )


_PLAN = TypeAdapter(Plan)
