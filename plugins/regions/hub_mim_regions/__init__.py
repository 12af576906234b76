"""Regions of pictures: boxes, their features and what is known of them, from detectors, grids, given boxes or files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub_mim_regions.boxes import box7 as box7
    from hub_mim_regions.boxes import normalised as normalised
    from hub_mim_regions.processing_regions import RegionProcessor as RegionProcessor
    from hub_mim_regions.readers import read_regions as read_regions
    from hub_mim_regions.roialign import roi_align as roi_align
    from hub_mim_regions.sources import make_source as make_source

_HOME = {
    "box7": "boxes",
    "normalised": "boxes",
    "RegionProcessor": "processing_regions",
    "read_regions": "readers",
    "roi_align": "roialign",
    "make_source": "sources",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hub_mim_regions' has no attribute {name!r}")
    return getattr(import_module(f"hub_mim_regions.{_HOME[name]}"), name)
