"""The judge for the example company: each ticket has a rubric, by which a program grades at no cost."""

from collections.abc import Mapping

from workers.errors import PermanentError
from workers.judge.judgement import Case, Judgement
from workers.learning.rubric import Grade, Rubric, grade


class RubricJudge:
    """Judges by rubrics, found by ticket id. It is blind by nature: a rubric knows no order and no writer."""

    def __init__(self, rubrics: Mapping[str, Rubric]) -> None:
        self._rubrics = rubrics

    async def judge(self, case: Case) -> Judgement:
        """Grade the answers. Raises: PermanentError if the ticket has no rubric."""
        rubric = self._rubrics.get(case.ticket.ticket_id)
        if rubric is None:
            raise PermanentError("the ticket has no rubric, so this judge can't say anything about it")
        grades = [grade(answer, rubric) for answer in case.answers]
        return Judgement("rubric", tuple(g.acceptable for g in grades), tuple(why(g) for g in grades))


def why(grade: Grade) -> str:
    """What an answer fails on, in one line; empty if nothing."""
    faults = {"missing": grade.missing, "claimed": grade.claimed, "invented": grade.invented}
    return "; ".join(f"{name}: {', '.join(what)}" for name, what in faults.items() if what)
