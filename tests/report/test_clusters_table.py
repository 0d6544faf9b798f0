"""The listing of clusters and devices."""

from autopart.report.clusters import clusters
from cost_models.cluster import cluster_names
from cost_models.device import device_names
from cost_models.mixed_cluster import mixed_cluster_names


def test_every_cluster_and_device_has_a_row() -> None:
    first_words = [line.split()[0] for line in clusters().splitlines() if line.strip()]
    assert set(cluster_names()) | set(mixed_cluster_names()) | set(device_names()) <= set(first_words)


def test_figures_have_units() -> None:
    text = clusters()
    assert "TFLOP/s" in text
    assert "GB/s" in text
    assert "GiB" in text
