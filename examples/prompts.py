"""A prompt source of your own: sums of two digits."""

from aer_lightning.data.prompts import Prompt
from examples.grader import SameNumber


class Sums:
    name, labels = "sums", ("sum",)
    grader = SameNumber()

    def load(self):
        pass

    def __len__(self):
        return 100

    def __getitem__(self, i):
        a, b = divmod(i, 10)
        return Prompt(id=f"sums/{i}", text=f"{a}+{b}=", answer=a + b, label="sum")
