"""The label map as DICOM SEG, slice on slice with the series that it lies on."""

from __future__ import annotations

from typing import Any, Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from glialite_runtime.dicom.concepts import Segment
from glialite_runtime.dicom.instances import MANUFACTURER, NOT_FOR_DIAGNOSIS, Maker, made_by, stamped
from glialite_runtime.dicom.source_series import SourceSeries

__all__ = ["SERIES_NUMBER", "segmentation"]

SERIES_NUMBER: Final = 9001


def segmentation(
    source: SourceSeries, labels: npt.NDArray[np.uint8], found: tuple[Segment, ...], document: dict[str, Any]
) -> hd.seg.Segmentation:
    """Return the label map as a binary DICOM SEG.

    Parameters
    ----------
    source : SourceSeries
        The series that `labels` lies on.
    labels : uint8 array (slice, row, column)
        BraTS-2023 label values; `source.order` says which slice belongs to which image or frame.
    found : tuple of Segment
        What `concepts.segments` says of `labels`; at least one, since a SEG without segments does not exist.
    document : dict
        The JSON report.

    Returns
    -------
    Segmentation
        One segment an element of `found`, frames only where there are voxels, in the frame of reference and
        with the positions of `source`, which it references image by image, or frame by frame.
    """
    maker = made_by(source, document, np.ascontiguousarray(labels).tobytes())
    kinds = hd.seg.SegmentAlgorithmTypeValues
    kind = kinds.SEMIAUTOMATIC if "correction" in document else kinds.AUTOMATIC
    numbers = np.zeros(4, np.uint8)
    for number, segment in enumerate(found, 1):
        numbers[list(segment.labels)] = number
    made = hd.seg.Segmentation(
        source_images=list(source.images),
        pixel_array=numbers[labels[list(source.order)]],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, segment, kind, maker) for n, segment in enumerate(found, 1)],
        series_instance_uid=maker.uid("segmentation series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=maker.uid("segmentation"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=maker.software,
        device_serial_number=document["bundle"]["sha256"],
        content_label="GLIOMA",
        content_description=NOT_FOR_DIAGNOSIS,
        series_description=f"{MANUFACTURER} outlines ({NOT_FOR_DIAGNOSIS})",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
    )
    return stamped(made, source, maker)


def _description(
    number: int, segment: Segment, kind: hd.seg.SegmentAlgorithmTypeValues, maker: Maker
) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=segment.code,
        algorithm_type=kind,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=maker.software,
            version=maker.bundle,
            family=codes.DCM.ArtificialIntelligence,
            source=MANUFACTURER,
        ),
        tracking_uid=maker.uid(f"segment {segment.name}"),
        tracking_id=segment.name,
        anatomic_regions=[codes.SCT.Brain],
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
    )
