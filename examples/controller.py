"""A controller of your own: a dead band, within which alpha rests."""


class DeadBand:
    alpha_init, alpha_min, alpha_max = 0.05, 0.0, 1.0

    def __init__(self, width=0.1, step=0.01):
        self.width, self.step = width, step

    def update(self, alpha, entropy, target, previous=None):
        error = (target - entropy) / target
        if abs(error) > self.width:
            alpha += self.step if error > 0 else -self.step
        return min(max(alpha, self.alpha_min), self.alpha_max)
