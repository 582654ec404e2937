"""Every update rule by name: the ones torch has, then the composed ones."""

from collections.abc import Mapping
from types import MappingProxyType

from stepscope.rules.as_torch import RULES
from stepscope.rules.compose import compose
from stepscope.rules.rule import Rule

__all__ = ["METHODS"]

_COMPOSED = (
    # The paper's grid: direction x factor, one decay rate for both moments.
    compose("m", name="msgd", source="[balles2018, Alg. 2]"),
    compose("sign_g", name="ssd", source="[balles2018, Sec. 1.2]"),
    compose("sign_m", name="mssd", source="[balles2018, Alg. 2]"),
    compose("g", "svag", name="svag", source="[balles2018, Eq. 23]"),
    compose("m", "svag_rho", name="msvag", source="[balles2018, Alg. 1, Eq. 25]"),
    compose("sign_m", "erf_rho", name="adam_erf", source="[balles2018, Lemma 1, Eq. 16, for sign m: Sec. 4.3]"),
    compose(
        "sign_m",
        "erf",
        name="adam_erf_uncorrected",
        source="[balles2018, Sec. 3.1: the optimum for sign g, which Adam approximates and applies to sign m]",
    ),
    compose("sign_m", "adam", name="adam_one_beta", source="[balles2018, Eq. 8 with beta1 = beta2 and Eq. 22]"),
    # Other papers' methods that are points of the same grid.
    compose("sign_m", name="signum", source="Bernstein et al. 2018, Alg. 2"),
    compose(
        "sign_nesterov",  # of its beta1 and beta2, blend = beta1/beta2 and beta = beta2
        bias_correction=False,
        name="lion",
        source="Chen et al. 2023, Alg. 2",
        lr=1e-4,
        beta=0.99,
        blend=0.9 / 0.99,
    ),
    compose("sign_g_abs_m", variance="two_emas", base="root_v", name="grams", source="Cao et al. 2024, Alg. 1"),
    compose("m", variance="belief", base="deviation", name="adabelief", source="Zhuang et al. 2020, Alg. 2"),
)

METHODS: Mapping[str, Rule] = MappingProxyType({rule.name: rule for rule in (*RULES, *_COMPOSED)})
