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
_CAUSALITY = "trainer/test_causality.py::test_"
_REPLICA = "trainer/test_replica.py::test_"
_ROOM = "trainer/test_room.py::test_"
_TENANCY = "trainer/test_tenancy.py::test_"
_SERVER = "services/test_redis_server.py::test_"
_ACL = "services/test_acl.py::test_"
_OWN_UID = "trainer/test_confinement.py::test_candidate_of_our_own_uid_finds_the_battery_as_the_table_has_it"
_OTHER_UID = f"{_OWN_UID.replace('our_own', 'another')}[other-uid]"
_CALL = "trainer/test_seccomp.py::test_call_is_refused"
_WALL = "trainer/test_landlock.py::test_"

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
    # The closer look at a score that may be kept
    Guard(
        "logits that change with the tokens behind them are no score",
        "trainer/causality.py",
        "if self.change > self.tolerance:",
        "if False:",
        _CAUSALITY + "a_model_that_sees_more_than_the_past_of_its_row_is_found[no mask]",
    ),
    Guard(
        "answers that cannot be repeated are no score",
        "trainer/causality.py",
        "if self.noise > MOST_TOLERANCE:",
        "if False:",
        _CAUSALITY + "a_model_that_sees_more_than_the_past_of_its_row_is_found[learning]",
    ),
    Guard(
        "what is no number differs",
        "trainer/causality.py",
        "nan=np.inf",
        "nan=0.0",
        _CAUSALITY + "a_model_that_sees_more_than_the_past_of_its_row_is_found[nan]",
    ),
    Guard(
        "the position just before a cut is looked at",
        "trainer/causality.py",
        "self._positions[:, 0] = self._cuts - 1",
        "",
        _CAUSALITY + "how_often_a_look_ahead_is_found_is_what_the_theory_says[0.1]",
    ),
    Guard(
        "noise widens the tolerance only so far",
        "trainer/causality.py",
        "min(MOST_TOLERANCE, max(TOLERANCE, _NOISE_FACTOR * self.noise))",
        "max(TOLERANCE, _NOISE_FACTOR * self.noise)",
        _CAUSALITY + "noise_widens_what_counts_as_the_same_but_not_far",
    ),
    Guard(
        "what the closer look finds ends the trial",
        "trainer/scoring.py",
        "            if self.finding.fault is not None:",
        "            if False:",
        _FAULT + "[same-uid-looks_ahead]",
    ),
    Guard(
        "a score that may be kept is borne out by a replica",
        "trainer/stage.py",
        "replica=spec.is_first_of_its_code",
        "replica=False",
        _REPLICA + "score_that_a_replica_does_not_bear_out_does_not_count[remembers_prefixes]",
    ),
    Guard(
        "what a replica shows decides",
        "trainer/replica.py",
        "    fault = _difference(finding)",
        "    fault = None",
        _REPLICA + "score_that_a_replica_does_not_bear_out_does_not_count[remembers_prefixes]",
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
        "    while _has_children() and (tree := procfs",
        "    if _has_children() and (tree := procfs",
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
    Guard(
        "a candidate's stdin is empty",
        "trainer/guardian.py",
        "((null, 0), (orders",
        "((orders",
        _OWN_UID,
    ),
    Guard(
        "a candidate holds no descriptor that nobody gave it",
        "trainer/guardian.py",
        '    _close_all_but({0, 1, 2, failed_fd, *orders["keep_fds"]})\n',
        "",
        _OWN_UID,
    ),
    Guard(
        "a candidate's environment is ours",
        "trainer/launch.py",
        "    return passed | {\n",
        "    return dict(os.environ) | {\n",
        _OWN_UID,
    ),
    Guard(
        "a candidate writes no core files",
        "trainer/guardian.py",
        "        (resource.RLIMIT_CORE, 0),\n",
        "",
        _OWN_UID,
    ),
    Guard(
        "a candidate's files are bounded",
        "trainer/guardian.py",
        '        (resource.RLIMIT_FSIZE, orders["file_mib"] * 2**20),\n',
        "",
        _OWN_UID,
    ),
    Guard(
        "a candidate's descriptors are bounded",
        "trainer/guardian.py",
        "        (resource.RLIMIT_NOFILE, _OPEN_FILES),\n",
        "",
        _OWN_UID,
    ),
    Guard(
        "a candidate goes first when memory ends",
        "trainer/guardian.py",
        'file.write("1000")',
        'file.write("0")',
        _OWN_UID,
    ),
    Guard(
        "the kernel counts the processes of a user of their own",
        "trainer/guardian.py",
        '    if orders["user"] is not None:\n        limits',
        "    if False:\n        limits",
        _OTHER_UID,
    ),
    Guard(
        "a candidate runs as the user that was ordered",
        "trainer/guardian.py",
        '        linux.become(*orders["user"])\n',
        "        pass\n",
        _OTHER_UID,
    ),
    Guard(
        "another user takes no group along",
        "trainer/linux.py",
        "    os.setgroups([])\n",
        "",
        _OTHER_UID,
    ),
    Guard(
        "no program gives a candidate new privileges",
        "trainer/guardian.py",
        "    linux.forbid_new_privileges()\n",
        "",
        _OWN_UID,
    ),
    Guard(
        "all who stand around a candidate are out of its reach",
        "trainer/guardian.py",
        "    untouchable = sorted({*ancestors, *map(os.getpgid, ancestors)} - {0})\n",
        "    untouchable = []\n",
        "trainer/test_confinement.py::test_table_holds_where_the_kernel_has_less_of_landlock[4]",
    ),
    Guard(
        "a candidate's files stay in its folder",
        "trainer/guardian.py",
        '        if not name or name.startswith("/") or ".." in name.split("/"):\n',
        "        if False:\n",
        "trainer/test_guardian.py::test_file_that_would_leave_the_work_folder_is_refused",
    ),
    Guard(
        "nobody of its user looks into a worker",
        "trainer/__main__.py",
        "    linux.become_undumpable()",
        "    pass",
        _WORKER + "worker_is_closed_to_other_processes_of_its_user",
    ),
    Guard(
        "a worker refuses walls with a hole",
        "trainer/selftest.py",
        "        if self.open:\n",
        "        if False:\n",
        "trainer/test_selftest.py::test_a_hole_in_the_wall_is_named_and_refused_and_the_filter_still_stands",
    ),
    # The system call filter, rule by rule
    Guard(
        "calls of another architecture end a candidate",
        "trainer/seccomp.py",
        "(_EQUAL, 1, 0, _AUDIT_NAMES[column])",
        "(_EQUAL, 1, 1, _AUDIT_NAMES[column])",
        "trainer/test_seccomp.py::test_filter_of_another_architecture_kills_the_process",
    ),
    Guard(
        "the second entry of the kernel is closed",
        "trainer/seccomp.py",
        '    if machine == "x86_64":  # the x32',
        "    if False:  # the x32",
        "trainer/test_seccomp.py::test_second_entry_of_the_kernel_is_closed",
    ),
    Guard(
        "no socket but unix sockets",
        "trainer/seccomp.py",
        "    for numbers in _SOCKETS.values():\n",
        "    for numbers in ():\n",
        f"{_CALL}[socket.socket(socket.AF_INET)-97]",
    ),
    Guard(
        "no look into other processes",
        "trainer/seccomp.py",
        '        "ptrace": (101, 117),\n'
        '        "process_vm_readv": (310, 270),\n'
        '        "process_vm_writev": (311, 271),\n'
        '        "pidfd_getfd": (438, 438),\n',
        "",
        f"{_CALL}[call('ptrace', 0, 0, 0, 0)-1]",
    ),
    Guard(
        "no namespace left or entered",
        "trainer/seccomp.py",
        '        "unshare": (272, 97),\n        "setns": (308, 268),\n',
        "",
        _OWN_UID,
    ),
    Guard(
        "no process in a new namespace",
        "trainer/seccomp.py",
        "    steps += _when(_CLONE[column], (_ANY_BIT, _NEW_NAMESPACES), _FAIL | errno.EPERM, _ALLOW)\n",
        "",
        f"{_CALL}[call('clone', 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)-1]",
    ),
    Guard(
        "no process by a call whose flags no filter can read",
        "trainer/seccomp.py",
        '"clone3": (435, 435),',
        "",
        _OWN_UID,
    ),
    Guard(
        "nothing mounted",
        "trainer/seccomp.py",
        '        "mount": (165, 40),\n        "umount2": (166, 39),\n',
        "",
        f"{_CALL}[call('mount', 0, 0, 0, 0, 0)-1]",
    ),
    Guard(
        "no io_uring",
        "trainer/seccomp.py",
        '        "io_uring_setup": (425, 425),\n'
        '        "io_uring_enter": (426, 426),\n'
        '        "io_uring_register": (427, 427),\n',
        "",
        _OWN_UID,
    ),
    Guard(
        "no program in the kernel",
        "trainer/seccomp.py",
        '        "bpf": (321, 280),\n',
        "",
        f"{_CALL}[call('bpf', 0, 0, 0)-1]",
    ),
    Guard(
        "no events of the processor",
        "trainer/seccomp.py",
        '        "perf_event_open": (298, 241),\n',
        "",
        f"{_CALL}[call('perf_event_open', 0, 0, 0, 0, 0)-1]",
    ),
    Guard(
        "no keys of the kernel",
        "trainer/seccomp.py",
        '        "keyctl": (250, 219),\n        "add_key": (248, 217),\n        "request_key": (249, 218),\n',
        "",
        _OWN_UID,
    ),
    Guard(
        "nothing in the kernel outlives a candidate",
        "trainer/seccomp.py",
        '        "shmget": (29, 194),  # System V memory and queues outlive their maker: a channel between two trials\n'
        '        "msgget": (68, 186),\n'
        '        "semget": (64, 190),\n'
        '        "mq_open": (240, 180),\n',
        "",
        _OWN_UID,
    ),
    Guard(
        "no other priority for disks",
        "trainer/seccomp.py",
        '        "ioprio_set": (251, 30),\n',
        "",
        f"{_CALL}[call('ioprio_set', 0, 0, 0)-1]",
    ),
    Guard(
        "no signal through a folder of procfs",
        "trainer/seccomp.py",
        '        "pidfd_send_signal": (424, 424),  # takes a process\'s folder in procfs too, which names no pid\n',
        "",
        f"{_CALL}[call('pidfd_send_signal', os.open(f'/proc/{{os.getppid()}}', os.O_RDONLY), 0, 0, 0)-1]",
    ),
    Guard(
        "no signal by owning a descriptor",
        "trainer/seccomp.py",
        "    for numbers, commands in _TO_AN_OWNER.values():\n",
        "    for numbers, commands in ():\n",
        f"{_CALL}[fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())-1]",
    ),
    Guard(
        "no signal to everybody",
        "trainer/seccomp.py",
        "[_EVERYBODY, *untouchable,",
        "[*untouchable,",
        f"{_CALL}[call('kill', -1, 0, 0)-1]",
    ),
    Guard(
        "no signal to the groups of those around a candidate",
        "trainer/seccomp.py",
        ", *(2**32 - pid for pid in untouchable)]",
        "]",
        f"{_CALL}[call('kill', -os.getppid(), 0, 0)-1]",
    ),
    Guard(
        "no other priority for other processes",
        "trainer/seccomp.py",
        "    steps += _only_for_itself(_SETPRIORITY[column])\n",
        "",
        f"{_CALL}[os.setpriority(os.PRIO_PROCESS, os.getppid(), 0)-1]",
    ),
    Guard(
        "no other limits for other processes",
        "trainer/seccomp.py",
        "    steps += _when(_PRLIMIT64[column], (_EQUAL, 0), _ALLOW, _FAIL | errno.EPERM)\n",
        "",
        f"{_CALL}[resource.prlimit(os.getppid(), resource.RLIMIT_CORE)-1]",
    ),
    # Landlock, right by right
    Guard(
        "what lies outside is not cut short",
        "trainer/landlock.py",
        "3: _TRUNCATE, ",
        "",
        f"{_WALL}nothing_else_does[os.truncate(here / 'read' / 'file', 0)]",
    ),
    Guard(
        "a device is not controlled by who may only read it",
        "trainer/landlock.py",
        ", 5: _IOCTL}",
        "}",
        f"{_WALL}device_is_controlled_only_where_that_is_granted[zero-Permission denied]",
    ),
    Guard(
        "no TCP connection is awaited",
        "trainer/landlock.py",
        "_TCP_SINCE, _TCP = 4, 0b11",
        "_TCP_SINCE, _TCP = 4, 0b10",
        f"{_WALL}no_tcp_connection_is_made_nor_awaited[bind(('127.0.0.1', 0))]",
    ),
    Guard(
        "no TCP connection is made",
        "trainer/landlock.py",
        "_TCP = 4, 0b11",
        "_TCP = 4, 0b01",
        f"{_WALL}no_tcp_connection_is_made_nor_awaited[connect(('127.0.0.1', 9))]",
    ),
    Guard(
        "no signal goes out",
        "trainer/landlock.py",
        "_SCOPES_SINCE, _SCOPES = 6, 0b11",
        "_SCOPES_SINCE, _SCOPES = 6, 0b01",
        f"{_WALL}no_signal_reaches_a_process_outside",
    ),
    Guard(
        "no abstract socket is reached",
        "trainer/landlock.py",
        "_SCOPES = 6, 0b11",
        "_SCOPES = 6, 0b10",
        f"{_WALL}no_abstract_socket_reaches_a_process_outside",
    ),
    Guard(
        "procfs is written only where a card needs it",
        "trainer/grants.py",
        "    if cards:\n",
        "    if True:\n",
        f"{_WALL}card_may_be_used_where_there_is_one_and_threads_be_named",
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
        "trainer/stage.py",
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
    Guard(
        "a candidate has shared memory of its own",
        "trainer/guardian.py",
        "        mounts.own_shared_memory()\n",
        "        pass\n",
        "trainer/test_faults.py::test_nothing_is_shared_between_two_candidates[same-uid]",
    ),
    Guard(
        "a flood without end ends the trial",
        "trainer/watch.py",
        "        if self.sink.seen_bytes > _LOG_LIMIT_BYTES:",
        "        if False:",
        "trainer/test_faults.py::test_flood_without_end_ends_the_trial",
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
    Guard(
        "no trial begins beside the dead on a card",
        "trainer/trial.py",
        " or card.lacking(spec.caps)) is not None",
        ") is not None",
        "trainer/test_card.py::test_trial_is_not_begun_beside_one_that_stays_and_it_is_said_which",
    ),
)
