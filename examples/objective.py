"""An objective of your own: REINFORCE, the policy gradient without a ratio or a clip."""


class Reinforce:
    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, inputs):
        terms = -inputs.advantage[:, None] * inputs.logprob * inputs.mask  # [B, T]
        loss = self.scale * terms.sum() / inputs.num_tokens
        return loss, {"surprisal": (-(inputs.logprob * inputs.mask).detach().sum(), inputs.mask.sum())}
