"""Who may do what in our Redis, in containers and in local mode: one user per service, as the text of its ACL file.

Derived from what RQ 3 and our own code send; tests work real trials and requests as these users and find nothing
refused. Promises: the researcher cannot write a trial's result, the trainer cannot ask for anything, a client may send
requests and no trials, nobody is an administrator, and nobody runs or loads a script. A client gets single commands
only, none of which walks over what a client stored: a long walk, or a transaction of many, would block the server for
all. Not covered: what a service does to its own work, and how much a client sends; the server's limits and the
researcher's worker of requests bound what that fills. For Redis 7 and newer, and Valkey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from researcher.queues.requests import KINDS
from trainer.jobs import CHECKS, REQUESTS, TRIALS, WorkerRole, worker_key, worker_names_key

# Patterns of the ids that `trainer.jobs.trial_id`, `researcher.queues.requests.send` and `CheckSpec.id` make. No id
# fits two: a trial's has a digit before its last dash, the others a letter; behind it a request's has 12 characters, a
# check's 32.
TRIAL = "*-t[0-9]*-a[0-9]*"
_NUMBER = 12 * "[0-9a-f]"
REQUEST = "*[a-z]-" + _NUMBER
CHECK = "check-" + 32 * "[0-9a-f]"


@dataclass(frozen=True)
class Grant:
    """Some commands (`-` takes away) on some keys. Grants do not mix: a command must fit one with all its keys."""

    commands: str
    keys: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def rule(self) -> str:
        """As one selector of an ACL rule."""
        words = [f"~{key}" for key in self.keys] + [f"%R~{key}" for key in self.reads]
        words += [f"%W~{key}" for key in self.writes] + [f"&{channel}" for channel in self.channels]
        words += [word if word.startswith("-") else f"+{word}" for word in self.commands.split()]
        return f"({' '.join(words)})"


@dataclass(frozen=True)
class AclUser:
    """A service in Redis. Without a password whoever reaches the server may be it."""

    name: str
    grants: tuple[Grant, ...]
    has_password: bool = True

    def line(self, secret: str) -> str:
        """Its line of the file."""
        return f"user {self.name} on {secret} {' '.join(grant.rule() for grant in self.grants)}"


# How a job is measured before it is read.
_MEASURES = "watch hlen memory|usage"


def _works(queue: str, jobs: tuple[str, ...], worker: str) -> tuple[Grant, ...]:
    """What RQ needs to work one queue."""
    return (
        # Take a job, start it, keep its lease, write its result, fail what was abandoned or never started.
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
        # The worker's own record, and the list of workers, from which it strikes the dead.
        Grant(
            "del exists expire hexists hget hgetall hincrby hincrbyfloat hset sadd smembers srem",
            keys=("rq:workers", f"rq:workers:{queue}", f"rq:worker:{worker}"),
        ),
        # Housekeeping looks for what we do not use: suspension, rate limits, groups.
        Grant("exists smembers", reads=("rq:suspended", "rq:rl-keys", "rq:groups")),
        Grant("set", writes=("rq:clean_groups",)),
    )


def _shows_itself(role: WorkerRole) -> tuple[Grant, ...]:
    """What a worker needs to show itself, to forget those of its role that have vanished, and for its health check."""
    return (
        Grant("del exists expire hgetall hset watch", keys=(worker_key(role, "*"),)),
        Grant("expire sadd smembers srem", keys=(worker_names_key(role),)),
    )


def _asks(queue: str, ids: str) -> tuple[Grant, ...]:
    """Enqueue once. A grant for each key: a hash must not be made where the queue is, nor a list where a job is."""
    return Grant("exists hset watch", keys=(f"rq:job:{ids}",)), Grant("rpush", writes=(f"rq:queue:{queue}",))


def _requests(*jobs: str) -> tuple[Grant, ...]:
    """Ask and take back by single commands."""
    return Grant("hget hset hsetnx", keys=jobs), Grant("rpush", writes=(f"rq:queue:{REQUESTS}",))


# The client library tells its own version, by a command that Redis 7.0 does not have, and a file that names it would
# not load there. Tracking would tell the names of everybody's keys.
_GREETS = "client -@dangerous -client|tracking ping"
# RQ asks for the server's version, names its connection and sends transactions.
_CONNECTS = Grant(f"{_GREETS} info multi exec unwatch")


def _job(ids: str) -> tuple[str, ...]:
    """All keys of RQ's jobs with such ids."""
    jobs = (f"rq:job:{each}" for each in (ids, f"{ids}:dependents", f"{ids}:dependencies", f":{ids}:dependencies"))
    return (*jobs, f"rq:execution:{ids}:*", f"rq:executions:{ids}", f"rq:results:{ids}")


# Who works, and at what: the names of a role's workers, and what each shows of itself.
_SEES_WORKERS = (
    Grant("smembers", reads=tuple(worker_names_key(role) for role in WorkerRole)),
    Grant("hgetall", reads=tuple(worker_key(role, "*") for role in WorkerRole)),
)

# A trial's own keys; its pattern ends in `*` and so covers what RQ appends to the id.
_TRIAL_JOB = tuple(f"rq:{kind}:{TRIAL}" for kind in ("job", "execution", "executions"))
_REQUEST_JOB, _CHECK_JOB = _job(REQUEST), _job(CHECK)

TRAINER = AclUser(
    "trainer",
    (
        _CONNECTS,
        *_works(TRIALS, (*_TRIAL_JOB, f"rq:results:{TRIAL}"), "trainer-*"),
        # RQ's stop and shutdown commands come to it; it may send none.
        Grant("subscribe unsubscribe", channels=("rq:pubsub:trainer-*",)),
        *_shows_itself(WorkerRole.TRAINER),
        # What it shows of the running trial.
        Grant("incrby", keys=("overnight:trainer:token",)),
        Grant("del expire hset", keys=(f"overnight:trial:{TRIAL}",)),
    ),
)

CHECKER = AclUser(
    "checker",
    (
        _CONNECTS,
        *_works(CHECKS, _CHECK_JOB, "checker-*"),
        Grant("subscribe unsubscribe", channels=("rq:pubsub:checker-*",)),
        *_shows_itself(WorkerRole.CHECKER),
    ),
)

RESEARCHER = AclUser(  # and the `overnight` command in its container
    "researcher",
    (
        _CONNECTS,
        # Hand out a trial or a check, or ask for something as a person does.
        *_asks(TRIALS, TRIAL),
        *_asks(CHECKS, CHECK),
        *_requests(f"rq:job:{REQUEST}"),
        # Read the answer to a check, and who works.
        Grant(f"hget hgetall xread xrevrange {_MEASURES}", reads=_CHECK_JOB),
        *_SEES_WORKERS,
        # See what became of a trial.
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
        # Forget a trial whose answer the journal holds. Nothing here writes a result: no xadd.
        Grant(
            "del lrem zrem zremrangebyscore",
            writes=(
                *_TRIAL_JOB,
                f"rq:results:{TRIAL}",
                "rq:queue:trials",
                *(f"rq:{registry}:trials" for registry in ("wip", "finished", "failed")),
            ),
        ),
        # Serve its own requests, read the answers, drop what is too much, and clear away what nobody asks about.
        *_works(REQUESTS, _REQUEST_JOB, "researcher-*"),
        Grant("xread xrevrange", reads=(f"rq:results:{REQUEST}",)),
        Grant("ltrim", keys=(f"rq:queue:{REQUESTS}",)),
        Grant("scan"),
        # Say what it and the LLM do.
        Grant("get set", keys=("overnight:doing:*",)),
    ),
)

CLIENT = AclUser(  # a person's `overnight idea` from afar, through a tunnel
    "client",
    (
        Grant(_GREETS),
        # Ask, take back, and read the answer.
        *_requests(*(f"rq:job:{kind}-{_NUMBER}" for kind in KINDS)),
        Grant("xread xrevrange", reads=(f"rq:results:{REQUEST}",)),
        # See what the run does.
        Grant("get hgetall", reads=("overnight:doing:*", f"overnight:trial:{TRIAL}")),
        *_SEES_WORKERS,
    ),
)

# What whoever looks after the server asks, without a password: does it answer, and end a script if it does not. Nobody
# runs one, so there is nothing that this could end.
HEALTH = AclUser("health", (Grant("ping script|kill function|kill"),), has_password=False)

USERS = (TRAINER, CHECKER, RESEARCHER, CLIENT, HEALTH)
SERVICES = tuple(user.name for user in USERS if user.has_password)


def acl_file(passwords: Mapping[str, str]) -> str:
    """The file's text, with the passwords of `SERVICES` as hashes. The user that clients without a name get is off."""
    # Off is enough to keep everybody out. Its rights are for the server itself: Redis 8.0 replays its append-only
    # file as this user, and drops every transaction if it has none (redis/redis#14541, fixed late in 2025).
    lines = ["user default off ~* &* +@all"]
    for user in USERS:
        secret = f"#{_sha256(passwords[user.name])}" if user.has_password else "nopass"
        lines.append(user.line(secret))
    return "\n".join(lines) + "\n"


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
