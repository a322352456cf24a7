"""The system calls that a candidate may not make with any arguments, by the error with which they fail.

Does not cover calls that are refused for some arguments only, nor the filter itself: see `trainer.sandbox.seccomp`.

Standard library only, because the guardian imports this module.
"""

from __future__ import annotations

import errno

# name: numbers on x86-64 and aarch64; None if the architecture lacks the call
REFUSED: dict[int, dict[str, tuple[int, int | None]]] = {
    errno.EPERM: {
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "pidfd_getfd": (438, 438),
        "unshare": (272, 97),
        "setns": (308, 268),
        "mount": (165, 40),
        "umount2": (166, 39),
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "keyctl": (250, 219),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "shmget": (29, 194),  # System V memory and queues outlive their creator and could link two trials
        "msgget": (68, 186),
        "semget": (64, 190),
        "mq_open": (240, 180),
        "shmat": (30, 196),  # the same memory of other programs of the user can be used by its number alone
        "shmctl": (31, 195),
        "msgsnd": (69, 189),
        "msgrcv": (70, 188),
        "msgctl": (71, 187),
        "semop": (65, 193),
        "semtimedop": (220, 192),
        "semctl": (66, 191),
        "mq_unlink": (241, 181),
        "ioprio_set": (251, 30),
        "pidfd_send_signal": (424, 424),  # also takes a process's folder in procfs, so no filter sees a pid
        "kcmp": (312, 272),
        "process_madvise": (440, 440),
        "process_mrelease": (448, 448),
        "migrate_pages": (256, 238),
        "pivot_root": (155, 41),
        "chroot": (161, 51),
        "open_tree": (428, 428),
        "open_tree_attr": (467, 467),
        "move_mount": (429, 429),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        "name_to_handle_at": (303, 264),
        "open_by_handle_at": (304, 265),
        "fanotify_init": (300, 262),
        "fanotify_mark": (301, 263),
        "userfaultfd": (323, 282),  # could block a kernel thread for any time
        "memfd_secret": (447, 447),  # memory that no other process can read or count
        "modify_ldt": (154, None),
        "personality": (135, 92),
        "iopl": (172, None),
        "ioperm": (173, None),
        "syslog": (103, 116),
        "lookup_dcookie": (212, 18),
        "acct": (163, 89),
        "quotactl": (179, 60),
        "quotactl_fd": (443, 443),
        "swapon": (167, 224),
        "swapoff": (168, 225),
        "vhangup": (153, 58),
        "kexec_load": (246, 104),
        "kexec_file_load": (320, 294),
        "init_module": (175, 105),
        "finit_module": (313, 273),
        "delete_module": (176, 106),
    },
    errno.EOPNOTSUPP: {  # attributes outlive a process; shutil ignores this error
        "setxattr": (188, 5),
        "lsetxattr": (189, 6),
        "fsetxattr": (190, 7),
        "setxattrat": (463, 463),
        "removexattr": (197, 14),
        "lremovexattr": (198, 15),
        "fremovexattr": (199, 16),
        "removexattrat": (466, 466),
        "file_setattr": (469, 469),
    },
    errno.ENOSYS: {
        "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        "clone3": (435, 435),  # no filter can read its flags, which are in memory; libc falls back to clone
        "mincore": (27, 232),  # shows which pages of a file are in memory, and so were read before
        "cachestat": (451, 451),
        "fadvise64": (221, 223),  # could drop pages of a file from memory
    },
}
