"""The schedules that ship with modalkit: constant, linear, cosine, cyclic."""

from __future__ import annotations

import math

from pydantic import Field

from modalkit.plugin import Schedule, ScheduleOptions


class RampOptions(ScheduleOptions):
    """Options of a schedule that leads from one factor to another, after an optional warm-up."""

    start: float = Field(1.0, ge=0, allow_inf_nan=False, description="Factor at the first step after the warm-up.")
    end: float = Field(0.0, ge=0, allow_inf_nan=False, description="Factor after the last step.")
    warmup: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the training in which the factor first rises from 0 to `start`."
    )


class CyclicOptions(ScheduleOptions):
    """Options of the cyclic schedule."""

    cycles: int = Field(4, ge=1, description="Number of cycles in the training.")
    rise: float = Field(0.5, gt=0, le=1, description="Fraction of each cycle in which the factor rises; then it is 1.")


def constant(options: ScheduleOptions, done: float) -> float:
    """Return 1 at every step."""
    return 1.0


def linear(options: RampOptions, done: float) -> float:
    """Return a factor that changes linearly from `start` to `end`, after a linear rise from 0 to `start`.

    >>> [linear(RampOptions(name="linear"), done) for done in (0, 0.25, 1)]
    [1.0, 0.75, 0.0]
    >>> [linear(RampOptions(name="linear", warmup=0.5), done) for done in (0, 0.25, 0.5, 0.75, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if done < options.warmup:
        return options.start * (done / options.warmup)
    return options.end + (options.start - options.end) * (1 - _after_warmup(options, done))


def cosine(options: RampOptions, done: float) -> float:
    """Return a factor that leads from `start` to `end` along half a cosine, after a linear rise from 0 to `start`.

    >>> [round(cosine(RampOptions(name="cosine"), done), 6) for done in (0, 0.5, 1)]
    [1.0, 0.5, 0.0]
    >>> [round(cosine(RampOptions(name="cosine", warmup=0.2), done), 6) for done in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if done < options.warmup:
        return options.start * (done / options.warmup)
    angle = math.pi * _after_warmup(options, done)
    return options.end + (options.start - options.end) * ((1 + math.cos(angle)) / 2)


def _after_warmup(options: RampOptions, done: float) -> float:
    """Return the fraction that is done of the steps after the warm-up."""
    return (done - options.warmup) / (1 - options.warmup)


def cyclic(options: CyclicOptions, done: float) -> float:
    """Return a factor that rises linearly from 0 to 1 in each of several cycles, and then stays 1 to the cycle's end.

    Source:
        Fu et al. 2019, Cyclical annealing schedule: a simple approach to mitigating KL vanishing, equation 6.

    >>> [cyclic(CyclicOptions(name="cyclic", cycles=2), done) for done in (0, 0.125, 0.25, 0.4, 0.5, 0.625)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """
    return min(1.0, (done * options.cycles % 1) / options.rise)


CONSTANT = Schedule("constant", "no change", ScheduleOptions, constant, depends_on_epochs=False)
LINEAR = Schedule("linear", "a straight line, by default from 1 to 0", RampOptions, linear)
COSINE = Schedule("cosine", "half a cosine, by default from 1 to 0", RampOptions, cosine)
CYCLIC = Schedule("cyclic", "rises from 0 to 1 in each of several cycles", CyclicOptions, cyclic)
