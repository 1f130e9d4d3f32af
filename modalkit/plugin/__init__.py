"""The contract of plugins: a modality kind, an objective, a dataset builder, a schedule, a metric.

A plugin is one object of one of the dataclasses below, in a module that an entry point (or a recipe's
``plugins:`` list) names. There is nothing to inherit from but `Schema`.
"""

from modalkit.plugin._builder import Builder, Filled
from modalkit.plugin._columns import NO, YES, Cells, Column, Columns, Proposal, Required
from modalkit.plugin._metric import Display, Figure, Metric
from modalkit.plugin._modality import Modality, Outcome, Picture
from modalkit.plugin._objective import Draws, Objective, ObjectiveOptions, Plan
from modalkit.plugin._schedule import Schedule, ScheduleOptions
from modalkit.plugin._schema import CustomNetwork, Schema, Settings, Stored, as_tuple

__all__ = [
    "NO",
    "YES",
    "Builder",
    "Cells",
    "Column",
    "Columns",
    "CustomNetwork",
    "Display",
    "Draws",
    "Figure",
    "Filled",
    "Metric",
    "Modality",
    "Objective",
    "ObjectiveOptions",
    "Outcome",
    "Picture",
    "Plan",
    "Proposal",
    "Required",
    "Schedule",
    "ScheduleOptions",
    "Schema",
    "Settings",
    "Stored",
    "as_tuple",
]
