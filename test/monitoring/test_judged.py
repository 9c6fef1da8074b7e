from world_model_ros.monitoring.judged import HISTORY, NO_COMMANDS, NO_FRAME, START, JudgedSteps


def test_counts_what_was_judged_and_why_not():
    steps = JudgedSteps()
    for _ in range(3):
        steps.add(START)
    steps.add()
    steps.add(NO_FRAME, 2)
    steps.add(HISTORY)
    assert steps.metrics() == {
        "steps_judged": 1,
        "steps_not_judged": 6,
        "not_judged_why": f"3 {START}, 2 {NO_FRAME}, 1 {HISTORY}",
    }


def test_more_than_one_in_twenty_is_a_problem_that_passes():
    steps = JudgedSteps()
    for _ in range(95):
        steps.add()
    for _ in range(5):
        steps.add(NO_COMMANDS)
    assert steps.problem() == ""
    steps.add(NO_FRAME)
    assert steps.problem() == (
        f"surprise was not judged on 6 of the last 100 model steps: 5 {NO_COMMANDS}, 1 {NO_FRAME}"
    )
    for _ in range(100):
        steps.add()
    assert steps.problem() == ""


def test_a_few_steps_say_nothing_and_the_start_is_nobodys_fault():
    steps = JudgedSteps()
    for _ in range(50):
        steps.add(START)
    for _ in range(19):
        steps.add(NO_FRAME)
    assert steps.problem() == ""
    steps.add(NO_FRAME)
    assert "20 of the last 20" in steps.problem()
    steps.add(NO_FRAME, 10_000)
    assert "100 of the last 100" in steps.problem()
