"""The volumes as a DICOM structured report (TID 1500, "Measurement Report"), pointing at the segments of the SEG."""

from __future__ import annotations

from typing import Any, Final

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from glialite_runtime.dicom.concepts import REGION_CODES, Segment
from glialite_runtime.dicom.instances import MANUFACTURER, NOT_FOR_DIAGNOSIS, SCHEME, Maker, made_by, stamped
from glialite_runtime.dicom.source_series import SourceSeries
from glialite_runtime.dicom.statements import WORDS, quality_statements, volume_statement, warnings
from glialite_runtime.sequences import REGION_LABELS, REGIONS

__all__ = ["SERIES_NUMBER", "structured_report"]

SERIES_NUMBER: Final = 9003

_MILLILITRE: Final = Code("mL", "UCUM", "milliliter")
_MR_BRAIN: Final = Code("24590-2", "LN", "MR Brain")

_Group = hd.sr.MeasurementsAndQualitativeEvaluations | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations


def structured_report(
    source: SourceSeries,
    found: tuple[Segment, ...],
    document: dict[str, Any],
    segmentation: hd.seg.Segmentation | None,
) -> hd.sr.ComprehensiveSR:
    """Return the measurement report.

    Parameters
    ----------
    source : SourceSeries
        The series that was segmented.
    found : tuple of Segment
        The segments of `segmentation`, in its order.
    document : dict
        The JSON report.
    segmentation : Segmentation or None
        The SEG of the same report; None when nothing was outlined.

    Returns
    -------
    ComprehensiveSR
        A measurement group a region that is reported: volume in mL, with the distance to the limits of its interval
        where the bundle has one. A region that is one segment references it (TID 1411); one that is several, or none,
        is a group without a region of interest (TID 1501) whose source is those segments. Complete, preliminary and
        not verified: nobody has looked at it.
    """
    maker = made_by(source, document, b"" if segmentation is None else str(segmentation.SOPInstanceUID).encode())
    groups = []
    for region in REGIONS:
        if document["volumes_ml"][region] is not None:
            numbers = [n for n, segment in enumerate(found, 1) if set(segment.labels) <= set(REGION_LABELS[region])]
            groups.append(_group(_about(region, document, maker), source, segmentation, numbers))
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=_observer(maker)),
        procedure_reported=_MR_BRAIN,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    report[0].ContentSequence.append(hd.sr.TextContentItem(codes.DCM.Comment, _comment(document), contains))
    made = hd.sr.ComprehensiveSR(
        evidence=[*source.images, *([] if segmentation is None else [segmentation])],
        content=report[0],
        series_instance_uid=maker.uid("report series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=maker.uid("report"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        manufacturer_model_name=MANUFACTURER,
        series_description=f"{MANUFACTURER} volumes ({NOT_FOR_DIAGNOSIS})",
        specific_character_set="ISO_IR 192",
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, responsible_organization=MANUFACTURER)],
    )
    return stamped(made, source, maker)


def _observer(maker: Maker) -> hd.sr.ObserverContext:
    return hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=maker.uid("device"), name=maker.software, manufacturer_name=MANUFACTURER, model_name=maker.bundle
        ),
    )


def _about(region: str, document: dict[str, Any], maker: Maker) -> dict[str, Any]:
    """Return what every kind of measurement group says about a region."""
    volume = document["volumes_ml"][region]
    return {
        "tracking_identifier": hd.sr.TrackingIdentifier(maker.uid(f"region {region}"), WORDS.say(f"region.{region}")),
        "finding_category": codes.SCT.MorphologicallyAbnormalStructure,
        "finding_type": REGION_CODES[region],
        "finding_sites": [hd.sr.FindingSite(anatomic_location=codes.SCT.Brain)],
        "algorithm_id": hd.sr.AlgorithmIdentification(maker.software, maker.bundle),
        "measurements": [
            hd.sr.Measurement(
                name=codes.SCT.Volume,
                value=volume,
                unit=_MILLILITRE,
                method=codes.DCM.SumOfSegmentedVoxelMethodForVolume,
                properties=_limits(volume, document["volume_intervals_ml"].get(region)),
            )
        ],
    }


def _limits(volume: float, interval: dict[str, float] | None) -> hd.sr.MeasurementProperties | None:
    """Return how far the limits of an interval lie from the volume, in mL, which highdicom states without a unit."""
    if interval is None:
        return None
    limits = hd.sr.MeasurementProperties(
        upper_measurement_uncertainty=round(interval["high"] - volume, 6),
        lower_measurement_uncertainty=round(volume - interval["low"], 6),
    )
    for limit in limits:
        limit.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [hd.sr.CodedConcept(*_MILLILITRE[:3])]
    return limits


def _group(
    about: dict[str, Any], source: SourceSeries, segmentation: hd.seg.Segmentation | None, numbers: list[int]
) -> _Group:
    if segmentation is None or not numbers:
        return hd.sr.MeasurementsAndQualitativeEvaluations(**about)
    instance = (segmentation.SOPClassUID, segmentation.SOPInstanceUID)
    if len(numbers) == 1:
        series = hd.sr.SourceSeriesForSegmentation(source.images[0].SeriesInstanceUID)
        segment = hd.sr.ReferencedSegment(*instance, numbers[0], source_series=series)
        return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **about)
    image = hd.sr.SourceImageForMeasurementGroup(*instance)
    image.ReferencedSOPSequence[0].ReferencedSegmentNumber = numbers
    return hd.sr.MeasurementsAndQualitativeEvaluations(source_images=[image], **about)


def _comment(document: dict[str, Any]) -> str:
    """Return in words what the codes cannot say."""
    said = [*warnings(document), *quality_statements(document)]
    said += [f"{volume_statement(region, document)}." for region in REGIONS]
    return " ".join([*said, WORDS.say("range_note")] if document["volume_intervals_ml"] else said)
