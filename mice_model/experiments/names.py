"""What can be run by name: the files of `experiments/`, and the checks. Imports nothing heavy: Dagster lists them at load."""

from pathlib import Path

MODALITY_PATTERNS, STAND_IN_DRIFT, FAILURE_SIGNS = "modality-patterns", "stand-in-drift", "failure-signs"
CHECKS = {
    MODALITY_PATTERNS: "Held-out cases scored with modalities hidden: every subset, and each at random in a share of the cases.",
    STAND_IN_DRIFT: "How far synthesised features are from the real ones of the same held-out cases.",
    FAILURE_SIGNS: "Router entropy, spread of the risks and stand-ins of the pre-trained and the fine-tuned networks.",
}


def experiment_names(folder: Path) -> tuple[str, ...]:
    """Return all names: the experiments whose files lie in `folder`, then the checks."""
    return (*sorted(path.stem for path in folder.glob("*.yaml")), *CHECKS)
