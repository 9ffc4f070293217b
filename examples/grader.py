"""A grader of your own: the completion is the number, and nothing else."""

from aer_lightning.data.rewards import Grade, Outcome


class SameNumber:
    isolated = False  # it cannot hang, so it needs no process of its own

    def check_gold(self, answer):
        return None if isinstance(answer, int) else f"{answer!r} is no whole number"

    def grade(self, completion, answer):
        text = completion.strip()
        if not text.isdecimal():
            return Grade(Outcome.UNPARSED)
        return Grade(Outcome.CORRECT if int(text) == answer else Outcome.WRONG, extracted=text)
