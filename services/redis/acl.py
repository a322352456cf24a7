"""The permissions of each Redis user, in containers and in local mode: one user for each service, as text of an ACL
file.

The grants are derived from the commands of RQ 3 and of this code; tests run real trials and requests as these users and
find no refused command. The researcher cannot write a trial's result, the trainer cannot send a request, a client may
send requests and no trials, no user is an administrator, and no user runs or loads a script. A client may use single
commands only, none of which iterates over data that clients stored: a long iteration, or a transaction of many
commands, would block the server for all. Not covered: damage by a service to its own jobs, and the amount of a client's
data, which the server's limits and the researcher's request worker bound. For Redis 7 and newer, and Valkey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from researcher.queues.requests import KINDS
from trainer.jobs import DRY_RUNS, REQUESTS, TRIALS, WorkerRole, lease_key, worker_key, worker_names_key

# Patterns of the ids that `trainer.jobs.trial_id`, `researcher.queues.requests.send` and `DryRunSpec.id` make. No id
# fits two: a trial's has a digit before its last dash, the others a letter; behind it a request's has 12 characters, a
# check's 32.
TRIAL = "*-t[0-9]*-a[0-9]*"
_NUMBER = 12 * "[0-9a-f]"
REQUEST = "*[a-z]-" + _NUMBER
DRY_RUN = "dry-run-" + 32 * "[0-9a-f]"


@dataclass(frozen=True)
class Grant:
    """Some commands (`-` removes one) on some keys. Grants do not mix: one grant must cover a command with all its
    keys."""

    commands: str
    keys: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def rule(self) -> str:
        """Return the grant as one selector of an ACL rule."""
        rules = [f"~{key}" for key in self.keys] + [f"%R~{key}" for key in self.reads]
        rules += [f"%W~{key}" for key in self.writes] + [f"&{channel}" for channel in self.channels]
        rules += [word if word.startswith("-") else f"+{word}" for word in self.commands.split()]
        return f"({' '.join(rules)})"


@dataclass(frozen=True)
class AclUser:
    """The Redis user of a service. Anybody who reaches the server may log in as a user without a password."""

    name: str
    grants: tuple[Grant, ...]
    has_password: bool = True

    def line(self, secret: str) -> str:
        """Return the user's line of the ACL file."""
        return f"user {self.name} on {secret} {' '.join(grant.rule() for grant in self.grants)}"


# Commands that measure a job before it is read.
_MEASURES = "watch hlen memory|usage"


def _works(queue: str, jobs: tuple[str, ...], worker: str) -> tuple[Grant, ...]:
    """Return the grants that RQ needs to work one queue."""
    return (
        # Take a job, start it, keep its lease, write its result, fail jobs that were abandoned or never started.
        Grant(
            "blmove lmove llen lpush lrange lrem get set del unlink expire persist hget hgetall hset hsetnx hstrlen"
            f" smembers {_MEASURES} zadd zrange zrangebyscore zrem zremrangebyscore xadd",
            keys=(
                f"rq:queue:{queue}",
                f"rq:queue:{queue}:intermediate*",
                *(f"rq:{registry}:{queue}" for registry in ("wip", "finished", "failed", "ready", "clean_registries")),
                *jobs,
            ),
        ),
        # The worker's own record, and the list of workers, from which it removes dead ones.
        Grant(
            "del exists expire hexists hget hgetall hincrby hincrbyfloat hset sadd smembers srem",
            keys=("rq:workers", f"rq:workers:{queue}", f"rq:worker:{worker}"),
        ),
        # RQ's housekeeping looks for features that are unused here: suspension, rate limits, groups.
        Grant("exists smembers", reads=("rq:suspended", "rq:rl-keys", "rq:groups")),
        Grant("set", writes=("rq:clean_groups",)),
    )


def _shows_itself(role: WorkerRole) -> tuple[Grant, ...]:
    """Return the grants of a worker to write its heartbeat, to delete those of vanished workers of its role, and to
    check its health."""
    return (
        Grant("del exists expire hgetall hset watch", keys=(worker_key(role, "*"),)),
        Grant("expire sadd smembers srem", keys=(worker_names_key(role),)),
    )


def _asks(queue: str, ids: str) -> tuple[Grant, ...]:
    """Return the grants to enqueue once. Each key has a grant of its own, so that no hash can be made in place of the
    queue, and no list in place of a job."""
    return Grant("exists hset watch", keys=(f"rq:job:{ids}",)), Grant("rpush", writes=(f"rq:queue:{queue}",))


def _requests(*jobs: str) -> tuple[Grant, ...]:
    """Return the grants to send and cancel requests by single commands."""
    return Grant("hget hset hsetnx", keys=jobs), Grant("rpush", writes=(f"rq:queue:{REQUESTS}",))


# The client library sends its own version by a command that Redis 7.0 does not have, and Redis 7.0 loads no file that
# names it. Tracking would reveal the names of all keys.
_GREETS = "client -@dangerous -client|tracking ping"
# RQ asks for the server's version, names its connection and sends transactions.
_CONNECTS = Grant(f"{_GREETS} info multi exec unwatch")


def _job(ids: str) -> tuple[str, ...]:
    """Return all keys of RQ's jobs with such ids."""
    jobs = (f"rq:job:{each}" for each in (ids, f"{ids}:dependents", f"{ids}:dependencies", f":{ids}:dependencies"))
    return (*jobs, f"rq:execution:{ids}:*", f"rq:executions:{ids}", f"rq:results:{ids}")


# Grants to read the names of a role's workers, and the heartbeat of each.
_SEES_WORKERS = (
    Grant("smembers", reads=tuple(worker_names_key(role) for role in WorkerRole)),
    Grant("hgetall", reads=tuple(worker_key(role, "*") for role in WorkerRole)),
)

# Grants to change the lease of a GPU at the server's time.
_LEASES = (Grant("get set watch", keys=(lease_key("*"),)), Grant("time"))

# A trial's own keys; its pattern ends in `*` and so covers what RQ appends to the id.
_TRIAL_JOB = tuple(f"rq:{kind}:{TRIAL}" for kind in ("job", "execution", "executions"))
_REQUEST_JOB, _DRY_RUN_JOB = _job(REQUEST), _job(DRY_RUN)

TRAINER = AclUser(
    "trainer",
    (
        _CONNECTS,
        *_works(TRIALS, (*_TRIAL_JOB, f"rq:results:{TRIAL}"), "trainer-*"),
        # The worker receives RQ's stop and shutdown commands, and may send none.
        Grant("subscribe unsubscribe", channels=("rq:pubsub:trainer-*",)),
        *_shows_itself(WorkerRole.TRAINER),
        # The progress of the running trial.
        Grant("incrby", keys=("overnight:trainer:token",)),
        Grant("del expire hset", keys=(f"overnight:trial:{TRIAL}",)),
        *_LEASES,
    ),
)

DRY_RUN_WORKER = AclUser(
    "dry-run-worker",
    (
        _CONNECTS,
        *_works(DRY_RUNS, _DRY_RUN_JOB, "dry-run-worker-*"),
        Grant("subscribe unsubscribe", channels=("rq:pubsub:dry-run-worker-*",)),
        *_shows_itself(WorkerRole.DRY_RUN_WORKER),
    ),
)

RESEARCHER = AclUser(  # and the `overnight` command in its container
    "researcher",
    (
        _CONNECTS,
        # Queue a trial or a dry run, or send a request as a user does.
        *_asks(TRIALS, TRIAL),
        *_asks(DRY_RUNS, DRY_RUN),
        *_requests(f"rq:job:{REQUEST}"),
        # Read the result of a dry run, and the workers' heartbeats.
        Grant(f"hget hgetall xread xrevrange {_MEASURES}", reads=_DRY_RUN_JOB),
        *_SEES_WORKERS,
        # Read the state of a trial.
        Grant(
            f"hget hgetall lrange xread xrevrange zrange zrangebyscore {_MEASURES}",
            reads=(
                *_TRIAL_JOB,
                f"rq:results:{TRIAL}",
                "rq:queue:trials",
                "rq:queue:trials:intermediate",
                "rq:wip:trials",
                f"overnight:trial:{TRIAL}",
            ),
        ),
        # Delete a trial whose answer the journal holds. No grant here writes a result: xadd is missing.
        Grant(
            "del lrem zrem zremrangebyscore",
            writes=(
                *_TRIAL_JOB,
                f"rq:results:{TRIAL}",
                "rq:queue:trials",
                *(f"rq:{registry}:trials" for registry in ("wip", "finished", "failed")),
            ),
        ),
        # Serve requests, read the answers, drop excess requests, and delete requests that are in no list.
        *_works(REQUESTS, _REQUEST_JOB, "researcher-*"),
        Grant("xread xrevrange", reads=(f"rq:results:{REQUEST}",)),
        Grant("ltrim", keys=(f"rq:queue:{REQUESTS}",)),
        Grant("scan"),
        *_LEASES,
        # Publish the status of the researcher and of the LLM.
        Grant("get set", keys=("overnight:doing:*",)),
    ),
)

_CLIENT_GRANTS = (
    Grant(_GREETS),
    # Send and cancel a request, and read the answer.
    *_requests(*(f"rq:job:{kind}-{_NUMBER}" for kind in KINDS)),
    Grant("xread xrevrange", reads=(f"rq:results:{REQUEST}",)),
    # Read the status of the run.
    Grant("get hgetall", reads=("overnight:doing:*", f"overnight:trial:{TRIAL}")),
    *_SEES_WORKERS,
)
CLIENT = AclUser("client", _CLIENT_GRANTS)  # a user's `overnight idea` from another machine, through a tunnel
DASHBOARD = AclUser("dashboard", _CLIENT_GRANTS)  # the page, which reads the status and sends the user's requests

# The health check and the watchdog use this user without a password: they test whether the server answers, and end a
# script that blocks it. No user runs a script, so this user can do no harm.
HEALTH = AclUser("health", (Grant("ping script|kill function|kill"),), has_password=False)

USERS = (TRAINER, DRY_RUN_WORKER, RESEARCHER, CLIENT, DASHBOARD, HEALTH)
SERVICES = tuple(user.name for user in USERS if user.has_password)


def acl_file(passwords: Mapping[str, str]) -> str:
    """Return the file's text, with the passwords of `SERVICES` as hashes. The default user, for clients without a name,
    is off."""
    # No client can log in as the default user, because it is off. Its rights are for the server itself: Redis 8.0
    # replays its append-only file as this user, and drops every transaction if the user has none (redis/redis#14541,
    # fixed late in 2025).
    lines = ["user default off ~* &* +@all"]
    for user in USERS:
        secret = f"#{_sha256(passwords[user.name])}" if user.has_password else "nopass"
        lines.append(user.line(secret))
    return "\n".join(lines) + "\n"


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
