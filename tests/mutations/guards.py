"""Every guard of journal, decision and their neighbours: what its removal looks like, and the test that notices.

A guard is a condition that must hold for the history to be true; it costs nothing in a night without accidents, so only
a test that fails without it shows that it is there. `old` stands exactly once in `file`. New guards: append a line.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """`test` is a node id below tests/, of a test (or a case of one, in brackets) that takes seconds."""

    name: str
    file: str
    old: str
    new: str
    test: str


_JOURNAL = "researcher/test_journal.py::test_"
_DECISION = "researcher/test_decision.py::test_"
_WORKSPACE = "researcher/test_workspace.py::test_"
_SUBJECT_DAYS = "researcher/test_subject_days.py::test_"
_CLAIMS = "researcher/test_claims.py::test_"
_FAILURES = "researcher/test_failures.py::test_"
_DRIFT = "researcher/test_drift.py::test_"
_FAULT = "trainer/test_faults.py::test_fault_has_its_outcome_and_leaves_nothing"
_TRIAL = "trainer/test_trial.py::test_"
_WORKER = "trainer/test_worker.py::test_"
_BAD_DAYS = "crash/test_bad_days.py::test_"
_ROOM = "trainer/test_room.py::test_"
_TENANCY = "trainer/test_tenancy.py::test_"
_SERVER = "services/test_redis_server.py::test_"
_ACL = "services/test_acl.py::test_"
_OWN_UID = "trainer/test_confinement.py::test_candidate_of_our_own_uid_reaches_nothing_but_its_folder"

GUARDS = (
    # The journal: every step names the state it starts from
    Guard(
        "an experiment is decided once",
        "researcher/journal.py",
        " WHERE id = ? AND state = 'measuring' AND decision IS NULL",
        " WHERE id = ?",
        _JOURNAL + "nothing_is_decided_twice",
    ),
    Guard(
        "steps come in order",
        "researcher/journal.py",
        "SET state = 'measuring' WHERE id = ? AND state = 'committed'",
        "SET state = 'measuring' WHERE id = ?",
        _JOURNAL + "a_step_out_of_order_changes_nothing",
    ),
    Guard(
        "a late answer is fenced out",
        "researcher/journal.py",
        " machine = COALESCE(?, machine) WHERE id = ? AND attempt = ? AND state = 'queued'",
        " machine = COALESCE(?, machine) WHERE id = ? AND attempt >= ? AND state = 'queued'",
        _JOURNAL + "only_the_current_attempts_answer_is_taken",
    ),
    Guard(
        "an attempt is given up once",
        "researcher/journal.py",
        '''faults = faults + ? WHERE id = ? AND attempt = ?"''',
        '''faults = faults + ? WHERE id = ? AND attempt >= ?"''',
        _JOURNAL + "an_attempt_is_given_up_once",
    ),
    Guard(
        "a score is never measured away",
        "researcher/journal.py",
        " WHERE id = ? AND state = 'finished' AND val_bpb IS NULL",
        " WHERE id = ? AND state = 'finished'",
        _JOURNAL + "a_measured_trial_is_never_measured_again",
    ),
    Guard(
        "what was read for good is never measured again",
        "researcher/journal.py",
        " AND id = (SELECT MAX(id) FROM trial)",
        "",
        _JOURNAL + "only_the_newest_trial_is_begun_again",
    ),
    Guard(
        "a request is taken in once",
        "researcher/journal.py",
        "ON CONFLICT (id) DO NOTHING",
        "ON CONFLICT (id) DO UPDATE SET body = excluded.body, answer = excluded.answer",
        _JOURNAL + "a_request_asked_twice_is_taken_in_once_and_keeps_its_first_answer",
    ),
    Guard(
        "one experiment at a time",
        "researcher/migrations/001.sql",
        "CREATE UNIQUE INDEX one_open_experiment",
        "CREATE INDEX one_open_experiment",
        _JOURNAL + "only_one_experiment_is_under_way_at_a_time",
    ),
    Guard(
        "one check at a time",
        "researcher/migrations/001.sql",
        "CREATE UNIQUE INDEX one_open_confirmation",
        "CREATE INDEX one_open_confirmation",
        _JOURNAL + "a_check_is_opened_widened_and_decided_once",
    ),
    Guard(
        "a claim gets one more pair once",
        "researcher/steps.py",
        " WHERE id = ? AND pairs = ? AND state = 'measuring'",
        " WHERE id = ? AND pairs >= ? AND state = 'measuring'",
        _JOURNAL + "a_check_is_opened_widened_and_decided_once",
    ),
    Guard(
        "a claim is decided once",
        "researcher/steps.py",
        "base_score = ?, decided_at = ? WHERE id = ? AND state = 'measuring'",
        "base_score = ?, decided_at = ? WHERE id = ?",
        _JOURNAL + "a_check_is_opened_widened_and_decided_once",
    ),
    Guard(
        "a roll-back moves the incumbent",
        "researcher/steps.py",
        '                self._move("incumbent", check.base)',
        "                pass",
        _JOURNAL + "a_claim_moves_the_marks_with_its_verdict",
    ),
    Guard(
        "what falls takes the confirmed mark along",
        "researcher/steps.py",
        "WHERE confirmed > ?1",
        "WHERE confirmed > ?1 AND 0",
        _JOURNAL + "a_run_that_falls_behind_its_confirmed_state_has_that_one_no_more",
    ),
    Guard(
        "one writer",
        "researcher/store.py",
        "fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        _JOURNAL + "a_second_writer_is_told_who_holds_the_journal",
    ),
    Guard(
        "a newer journal is left alone",
        "researcher/store.py",
        "if version > len(scripts):",
        "if False:",
        _JOURNAL + "a_journal_of_a_newer_version_is_refused_untouched",
    ),
    # The decision
    Guard(
        "longer code must win by more",
        "researcher/decision.py",
        "if gain > margin:",
        "if gain > 0:",
        _DECISION + "the_walk_keeps_what_is_better_and_asks_more_of_longer_code",
    ),
    Guard(
        "the incumbent is the mean of its runs",
        "researcher/decision.py",
        "    incumbent = fmean(incumbent_scores)",
        "    incumbent = min(incumbent_scores)",
        _DECISION + "the_incumbent_is_the_mean_of_all_its_runs_so_one_lucky_spike_does_not_block_the_night",
    ),
    Guard(
        "sigma has a floor",
        "researcher/decision.py",
        "return max(floor, math.sqrt(squares / freedom))",
        "return math.sqrt(squares / freedom)",
        _DECISION + "sigma_never_falls_below_its_floor",
    ),
    Guard(
        "a claim needs two sigma",
        "researcher/decision.py",
        "CLAIM_FACTOR = 2.0",
        "CLAIM_FACTOR = 0.5",
        _DECISION + "a_claim_needs_two_sigma_and_gets_one_more_pair_before_it_is_rolled_back",
    ),
    Guard(
        "an undecided claim gets one more pair",
        "researcher/decision.py",
        "CLAIM_PAIRS_LIMIT = 4",
        "CLAIM_PAIRS_LIMIT = 3",
        _DECISION + "a_claim_needs_two_sigma_and_gets_one_more_pair_before_it_is_rolled_back",
    ),
    Guard(
        "rejections are no failures",
        "researcher/decision.py",
        "outcome is not Outcome.REJECTED and not outcome.is_infrastructure",
        "not outcome.is_infrastructure",
        _DECISION + "three_failures_in_a_row_ask_for_a_recheck_and_neither_rejections_nor_lost_trials_count",
    ),
    Guard(
        "one failure bans nothing",
        "researcher/decision.py",
        "return failures > 1 or",
        "return failures > 0 or",
        _DECISION + "a_change_that_was_discarded_once_or_failed_twice_is_not_tried_again",
    ),
    # Checks and the loop
    Guard(
        "a jump is claimed at once",
        "researcher/checks.py",
        " if is_implausible(score.score, to_beat, score.sigma) else None",
        " if False else None",
        _CLAIMS + "a_jump_that_is_hard_to_believe_is_claimed_before_anything_else",
    ),
    Guard(
        "a roll-back reaches the files",
        "researcher/checks.py",
        "    lab.workspace.settle(lab.incumbent_commit())\n    head",
        "    head",
        _CLAIMS + "a_fluke_is_rolled_back_at_once_with_the_reason_and_the_files_go_back",
    ),
    Guard(
        "a claim that failed before a kill is decided after it",
        "researcher/checks.py",
        "all(trial.outcome is Outcome.OK for trial in trials)",
        "all(trial.finished for trial in trials)",
        _CLAIMS + "a_head_that_does_not_run_again_is_no_gain_also_when_killed_before_that_is_written_down",
    ),
    Guard(
        "what the machine lost rolls nothing back",
        "researcher/checks.py",
        "    trial = lab.insist(trials[0])",
        "    trial = lab.measure(trials[0])",
        _FAILURES + "what_the_machine_loses_rolls_nothing_back",
    ),
    Guard(
        "tags are made again",
        "researcher/loop.py",
        "    tag_confirmed(lab)\n",
        "",
        _CLAIMS + "confirmed_states_are_tagged_and_a_tag_that_is_gone_is_made_again",
    ),
    Guard(
        "a lost baseline repeat is measured again",
        "researcher/loop.py",
        "trial = lab.insist(trials[number])",
        "trial = lab.measure(trials[number])",
        _FAILURES + "a_first_loss_costs_no_time_and_after_more_of_them_the_night_is_held",
    ),
    # Git and the queue
    Guard(
        "a discarded candidate leaves the files",
        "researcher/workspace.py",
        "            self._tree.show(GitState(self._tree.branch, commit))\n",
        "            pass\n",
        _WORKSPACE + "a_discarded_candidate_leaves_a_clean_tree_and_stays_reachable",
    ),
    Guard(
        "unsaved work is not thrown away",
        "researcher/workspace.py",
        "        if changed:",
        "        if False:",
        _WORKSPACE + "uncommitted_work_of_the_user_is_refused_by_name_not_thrown_away",
    ),
    Guard(
        "locks of the dead are removed",
        "researcher/workspace.py",
        "                lock.unlink()\n",
        "",
        _WORKSPACE + "restoring_after_a_kill_removes_dead_locks_and_half_written_files",
    ),
    Guard(
        "a goal edited by hand survives",
        "researcher/workspace.py",
        'self.repository.git.update_index("--skip-worktree", PROGRAM)',
        "pass",
        _WORKSPACE + "the_goal_that_a_human_edits_during_the_night_survives_every_reset",
    ),
    Guard(
        "a trial is handed out once",
        "researcher/trials.py",
        "                unique=True,\n",
        "",
        "researcher/test_trials.py::test_a_trial_handed_out_twice_is_run_once_and_answers_its_own_work",
    ),
    Guard(
        "an answer to other work is none",
        "researcher/trials.py",
        "    if answer.spec_digest != spec_digest:",
        "    if False:",
        "researcher/test_trials.py::test_an_answer_to_other_work_of_the_same_name_is_a_fault",
    ),
    Guard(
        "the same code is not tried twice",
        "researcher/validation.py",
        "    if earlier := tried(candidate):",
        "    if earlier := None:",
        "researcher/test_validation.py::test_code_that_was_tried_before_is_rejected_with_what_came_of_it",
    ),
    # Drift
    Guard(
        "both sides of a trial must differ",
        "researcher/drift.py",
        "if min(sides) > usual_s",
        "if max(sides) > usual_s",
        _DRIFT + "a_machine_differs_when_it_was_out_of_the_band_on_both_sides",
    ),
    Guard(
        "a win on a faster machine is measured again",
        "researcher/drift.py",
        "and result.metric.value >= beaten",
        "",
        _DRIFT + "only_a_trial_that_the_machine_may_have_decided_is_measured_again[won on a faster machine]",
    ),
    Guard(
        "a loss on a slower machine is measured again",
        "researcher/drift.py",
        "if difference.faster and trial",
        "if trial",
        _DRIFT + "only_a_trial_that_the_machine_may_have_decided_is_measured_again[lost on a slower machine]",
    ),
    Guard(
        "repeats have an end",
        "researcher/lab.py",
        " and trial.differed < REPEATS_LIMIT",
        "",
        _DRIFT + "a_machine_that_stays_slow_is_judged_after_two_repeats_and_is_the_usual_one_from_then_on",
    ),
    Guard(
        "a repeat is another attempt",
        "researcher/journal.py",
        "SET attempt = attempt + 1, differed = differed + 1,",
        "SET differed = differed + 1,",
        _DRIFT + "a_trial_on_a_slow_machine_is_measured_again_and_judged_once_by_the_next_attempt",
    ),
    Guard(
        "a routine look does not interrupt failures in a row",
        "researcher/checks.py",
        "incumbent is None or failing:",
        "incumbent is None:",
        _DRIFT + "failures_that_may_become_three_in_a_row_are_not_interrupted",
    ),
    # The guardian and who stands around it
    Guard(
        "a guardian ends when its supervisor does",
        "trainer/guardian.py",
        "    linux.die_with_parent(signal.SIGTERM, int(sys.argv[2]))\n",
        "",
        _WORKER + "killed_worker_takes_its_trial_along",
    ),
    Guard(
        "a candidate ends when its guardian does",
        "trainer/guardian.py",
        "    linux.die_with_parent(signal.SIGKILL, guardian)\n",
        "",
        _WORKER + "candidate_ends_with_its_guardian_when_all_who_could_end_it_were_killed_at_once",
    ),
    Guard(
        "a candidate has a session of its own",
        "trainer/guardian.py",
        "    os.setsid()\n",
        "",
        _FAULT + "[same-uid-kills_its_group]",
    ),
    Guard(
        "a guardian inherits whom a candidate leaves",
        "trainer/guardian.py",
        "    linux.become_subreaper()\n",
        "",
        _FAULT + "[same-uid-leaves_a_daemon]",
    ),
    Guard(
        "a tree is killed until none of it is left",
        "trainer/guardian.py",
        "    while (tree := procfs",
        "    if (tree := procfs",
        "trainer/test_guardian.py::test_tree_that_forks_while_it_is_killed_is_dead_at_the_end",
    ),
    Guard(
        "a supervisor ends when its worker does",
        "trainer/worker.py",
        "        linux.die_with_parent(signal.SIGKILL, self._parent)\n",
        "",
        _WORKER + "killed_worker_takes_its_trial_along",
    ),
    Guard(
        "a supervisor inherits what a killed guardian had",
        "trainer/worker.py",
        "        linux.become_subreaper()\n",
        "",
        _WORKER + "trial_whose_guardian_is_killed_has_crashed_and_leaves_nothing",
    ),
    Guard(
        "an answer is kept for whoever asks again",
        "trainer/trial.py",
        "    if known is not None:",
        "    if False:",
        _TRIAL + "stored_result_is_given_again_without_running",
    ),
    Guard(
        "a preempted trial makes room at once",
        "trainer/trial.py",
        "None if preempted() else _calibrate(spec)",
        "_calibrate(spec)",
        _TRIAL + "a_trial_that_is_to_make_room_at_once_is_not_followed_by_a_calibration",
    ),
    # Bad days
    Guard(
        "a bad day is held",
        "researcher/endurance.py",
        "        except BAD_DAYS as error:",
        "        except BlockingIOError as error:",
        _BAD_DAYS + "full_disk_is_said_with_the_room_that_is_left_and_the_night_goes_on_once_there_is_some",
    ),
    Guard(
        "a person's pause outlives a bad day",
        "researcher/endurance.py",
        " and run.paused != ASKED_TO_PAUSE",
        "",
        _BAD_DAYS + "pause_that_a_person_asked_for_outlives_a_bad_day",
    ),
    Guard(
        "a damaged journal is written to no more",
        "researcher/store.py",
        "        _require_sound(database, folder)\n",
        "",
        _BAD_DAYS + "damaged_journal_is_refused_untouched_and_it_is_said_where_the_night_still_is",
    ),
    Guard(
        "a refused password is not tried for minutes",
        "trainer/jobs/bus.py",
        "lambda error: not isinstance(error, redis.AuthenticationError)",
        "lambda error: True",
        _BAD_DAYS + "redis_with_another_password_is_said_at_once_and_the_new_one_is_read_from_its_file",
    ),
    Guard(
        "no trial is taken without room for it",
        "trainer/worker.py",
        "        room.wait_for((self._places.trials, self._places.work), self._hold)\n",
        "",
        _BAD_DAYS + "trainer_without_room_for_results_takes_no_trial_says_so_and_goes_on_by_itself",
    ),
    Guard(
        "what is not stored is not told",
        "trainer/archive.py",
        "        return replace(result, outcome=Outcome.LOST, reason=reason, metric=None, heldout=None)",
        "        return result",
        _ROOM + "result_that_cannot_be_stored_is_told_as_lost_and_measured_again_once_there_is_room",
    ),
    Guard(
        "a candidate does not answer for the files of others",
        "trainer/verdict.py",
        "    if observed.no_room is not None:",
        "    if False:",
        _ROOM + "candidate_that_finds_a_disk_filled_by_others_is_lost_to_the_machine",
    ),
    Guard(
        "a foreign job does not exist",
        "trainer/jobs/closed.py",
        "            _ = job.func\n",
        "",
        _BAD_DAYS + "queue_full_of_foreign_jobs_is_refused_in_one_line_and_the_nights_own_gets_through",
    ),
    Guard(
        "the night's clock never goes back",
        "researcher/clock.py",
        "max(expected, wall)",
        "wall",
        _BAD_DAYS + "clock_that_is_set_three_hours_on_and_back_and_to_1970_decides_nothing_and_nobody_waits_for_it",
    ),
    # People in the subject, and a repository that is lost
    Guard(
        "local changes are never overwritten",
        "researcher/worktree.py",
        "        if not theirs and not edited:\n",
        "        if not theirs:\n",
        _SUBJECT_DAYS + "what_people_do_in_the_subject_stays_as_it_is_and_is_said",
    ),
    Guard(
        "a commit made by hand stays reachable",
        "researcher/worktree.py",
        "        if commit is None or self._is_known(commit, state):\n",
        "        if True:\n",
        _SUBJECT_DAYS + "a_commit_made_by_hand_keeps_a_branch_of_its_own_and_the_nights_history_stays_true",
    ),
    Guard(
        "what a killed move left is no edit by hand",
        "researcher/worktree.py",
        'return self._git.git.hash_object("--", EDITABLE) in known',
        "return False",
        _WORKSPACE + "a_candidate_that_a_killed_move_left_in_the_files_is_no_edit_by_hand",
    ),
    Guard(
        "a commit made again has the journal's sha",
        "researcher/commits.py",
        "    if expected is not None and commit.hexsha != expected:\n",
        "    if False:\n",
        _SUBJECT_DAYS + "a_commit_made_again_that_is_not_the_journals_is_refused_and_no_ref_names_it",
    ),
    # What stands around a candidate, layer by layer
    Guard(
        "a candidate under our own uid sees only what is granted",
        "trainer/guardian.py",
        "        landlock.confine(wall)\n",
        "        os.close(wall)\n",
        _OWN_UID,
    ),
    Guard(
        "the data that scores is granted to nobody",
        "trainer/grants.py",
        " if entry.name != PRIVATE]",
        "]",
        _OWN_UID,
    ),
    Guard(
        "a candidate has no capabilities",
        "trainer/guardian.py",
        "    linux.drop_capabilities()\n",
        "",
        _OWN_UID,
    ),
    Guard(
        "a candidate is behind the system call filter",
        "trainer/guardian.py",
        "    seccomp.confine(untouchable)\n",
        "",
        _OWN_UID,
    ),
    Guard(
        "no signal reaches those around a candidate",
        "trainer/seccomp.py",
        "    for numbers in _TO_A_PROCESS.values():\n",
        "    for numbers in ():\n",
        "trainer/test_seccomp.py::test_call_is_refused",
    ),
    # What a candidate may take and leave
    Guard(
        "the disk of a work folder without a size is watched",
        "trainer/watch.py",
        "        if held.mib > (cap_mib := self._spec.caps.folder_mib):",
        "        if held.mib > (cap_mib := 128):",
        _FAULT + "[same-uid-fills_the_disk_with_files]",
    ),
    Guard(
        "a secret of the trainer is taken out of what is kept of a log",
        "trainer/logs.py",
        "_kept(self._redact(line))",
        "_kept(line)",
        "trainer/test_logs.py::test_secret_is_found_wherever_reads_and_lines_are_cut",
    ),
    Guard(
        "the trainer's password is known to whom takes it out",
        "trainer/trial.py",
        "redaction(places.secrets)",
        "redaction()",
        _TRIAL + "secret_of_the_trainer_is_in_nothing_that_is_kept_or_told",
    ),
    # Whom candidates run as
    Guard(
        "no two trainers have one user",
        "trainer/tenancy.py",
        "        if _locked(lock):\n            return User",
        "        if True:\n            return User",
        _TENANCY + "two_trainers_at_once_have_two_users",
    ),
    Guard(
        "a user that cannot read what candidates need is not taken",
        "trainer/tenancy.py",
        "        if reason is None:\n",
        "        if True:\n",
        _TENANCY + "without_a_user_of_their_own_the_reason_is_told_and_the_folder_is_ours_again",
    ),
    Guard(
        "a folder that changes hands is emptied by root",
        "trainer/tenancy.py",
        "        ended = clear_all(work, None)  #",
        "        ended = 0  #",
        _TENANCY + "what_another_users_candidate_left_is_gone_when_the_folder_changes_hands",
    ),
    # Who may do what in Redis
    Guard(
        "a client hands out no trial",
        "services/redis/acl.py",
        '        Grant("hget hgetall xread xrevrange zrange", reads=_REQUEST_JOB),\n',
        '        Grant("hget hgetall xread xrevrange zrange", reads=_REQUEST_JOB),\n        _asks(TRIALS, TRIAL),\n',
        _SERVER + "each_service_may_do_its_own_part_only",
    ),
    Guard(
        "a client answers no request",
        "services/redis/acl.py",
        '        Grant("del lrem zremrangebyscore", writes=',
        '        Grant("del lrem xadd zremrangebyscore", writes=',
        _SERVER + "each_service_may_do_its_own_part_only",
    ),
    Guard(
        "nobody gets in without a name",
        "services/redis/acl.py",
        '["user default off ~',
        '["user default on nopass ~',
        _SERVER + "nobody_gets_in_without_a_password_or_with_anothers",
    ),
    Guard(
        "in local mode too each service has a password of its own",
        "services/redis/folder.py",
        "self.password(user) or secrets.token_hex(24)\n",
        'self.password("trainer") or secrets.token_hex(24)\n',
        _SERVER + "nobody_gets_in_without_a_password_or_with_anothers",
    ),
    Guard(
        "a password is its owner's to read",
        "services/redis/folder.py",
        "os.O_EXCL, 0o600)",
        "os.O_EXCL, 0o644)",
        _SERVER + "each_services_password_is_in_a_private_file_of_its_own_kept_between_starts_and_on_no_command_line",
    ),
    Guard(
        "a password for everybody does not outlive its version",
        "services/redis/folder.py",
        '        (self.path / "password").unlink(missing_ok=True)',
        "        pass",
        _SERVER + "folder_of_an_earlier_version_with_one_password_for_everybody_goes_on",
    ),
    Guard(
        "a server without grants is not started",
        "services/redis/server.py",
        "OLDEST = (7, 0)",
        "OLDEST = (6, 2)",
        _SERVER + "server_on_the_path_is_preferred_and_one_too_old_is_passed_over",
    ),
    Guard(
        "a job of another queue is nobody's to fail",
        "trainer/jobs/closed.py",
        "        if job.origin == cls.works:",
        "        if job.origin:",
        _ACL + "what_a_client_may_write_cannot_move_the_desk_to_anything_else",
    ),
    Guard(
        "a request calls nothing when it is done",
        "trainer/jobs/closed.py",
        "        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None\n",
        "",
        _ACL + "what_a_client_may_write_cannot_move_the_desk_to_anything_else",
    ),
    Guard(
        "a request touches no other job",
        "trainer/jobs/closed.py",
        "        self.retries_left = self.repeats_left = self.group_id = self.rate_limit_key = None\n",
        "",
        _ACL + "what_a_client_may_write_cannot_move_the_desk_to_anything_else",
    ),
)
