"""A weight of your own: w(g) of a group's accuracy g, a float or a tensor. Most of it for prompts solved half of the time."""


def middle(accuracy):
    return 4 * accuracy * (1 - accuracy)
