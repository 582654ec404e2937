"""Machine epsilons by name, so that every tolerance is a stated multiple of one."""

EPS64 = 2.0**-52
EPS32 = 2.0**-23
