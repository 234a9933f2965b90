"""A study (`studies/<name>.yaml`): which data, which network, which training, which protocol. Typed, frozen, hashed.

Everything that changes a result is in here, so the hash of a study, a training set and the code names a model version.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_store.errors import StudyError
from feature_store.report_encoding import ReportEncoding
from kernels.backend import Backend
from mice_model.config import EXPERT_GROUPS, ExpertConfig, ExpertGroup, ModalityConfig, ModelConfig, ScanConfig

if TYPE_CHECKING:
    from feature_store.contract import Contract

PRESETS = Path(__file__).parent / "presets"
TFIDF = "tfidf-svd"  # the encoder of reports that needs no weights (text.py)
Modality = Literal["slide", "omics", "report", "clinical"]
OmicsPart = Literal["rna", "copy_number", "mutations", "protein", "measures"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FeatureConfig(_Strict):
    """The fitted preprocessing: everything learned here is learned on training cases only."""

    modalities: tuple[Modality, ...] = ("slide", "omics", "report")
    within_cancer_types: bool = False  # scale each cancer type by its own training cases, or all by those of all
    clip: float = 10.0  # z-scores beyond are cut
    slide_encoder: str | None = None  # which encoder's bags; None where the snapshot holds one only
    omics: tuple[OmicsPart, ...] = ("rna", "copy_number", "mutations")
    components: dict[str, int] = {}  # part -> how many principal components of it; all its values where it is not named
    measures: tuple[str, ...] = ()  # features of RNA or copy number that are scores, not genes or arms: taken as they are
    min_panel_share: float = 0.5  # a gene is kept if this share of the training cases with RNA has it
    max_mutated_genes: int = 300
    clinical_numeric: tuple[str, ...] = ("age_at_diagnosis_years", "stage", "grade")
    clinical_categorical: tuple[str, ...] = ("sex",)
    clinical_products: tuple[tuple[str, str], ...] = ()  # of scaled numeric columns, as further columns (age and age: its square)
    report_encoder: str = TFIDF  # or a text model of Hugging Face by its name, whose embeddings are in the store
    report_pooling: Literal["mean", "cls"] = "mean"  # of such a model: over all tokens, or over the windows' class tokens
    report_outcome_words: Literal["mask", "flag"] = "mask"  # words about the outcome are left out, or only counted
    report_terms: int = 20_000
    report_min_documents: int = 5
    report_components: int = 64
    patches_per_case: int = 4_096

    @property
    def report_encoding(self) -> ReportEncoding | None:
        """Which embeddings of the store stand for reports; None where texts themselves are encoded."""
        if self.report_encoder == TFIDF or "report" not in self.modalities:
            return None
        return ReportEncoding(self.report_encoder, self.report_pooling, self.report_outcome_words)


class NetworkConfig(_Strict):
    """Sizes of the network that a study may set; the rest are ModelConfig's defaults, which are the paper's."""

    kind: str = "mice"  # or one of neural_baselines.network_kinds
    width: int = 64
    num_time_bins: int = 5
    block: Literal["snn", "mlp"] = "snn"
    dropout: float = 0.2
    omics_hidden: tuple[int, ...] = (128,)
    report_hidden: tuple[int, ...] = ()
    clinical_hidden: tuple[int, ...] = ()
    overlapping_ranks: tuple[int, ...] = tuple(range(8, 121, 8))
    top_k: int = 9
    expert_rank: int = 64
    pre_encoder_dim_head: int = 128
    pre_encoder_mlp_dim: int = 128
    depth: int = 2
    groups: tuple[ExpertGroup, ...] = EXPERT_GROUPS
    interaction: Literal["none", "pairwise"] = "none"
    pool: Literal["post_mamba", "pre_mamba"] = "post_mamba"
    reordered: bool = False
    head_scale: float = 1.0
    kernel_backend: Backend = "auto"  # which kernels compute (kernels/README.md); what ran is in the report


class CoxSkipConfig(_Strict):
    """The Cox model whose log risk the network starts from (cox_skip.py); None in a study: the network starts from nothing.

    `penalties`: part of the inputs -> ridge penalties of its shared coefficients and of each cancer type's deviations, before the
    multipliers are chosen by inner folds of the training cases. Inputs have a variance of about 1.
    """

    penalties: dict[str, tuple[float, float]] = {
        "clinical": (50.0, 100.0),
        "measures": (100.0, 200.0),
        "rna": (1500.0, 6000.0),
        "copy_number": (5000.0, 20000.0),
        "mutations": (4000.0, 16000.0),
        "protein": (5000.0, 20000.0),
        "report": (1250.0, 5000.0),
    }
    multipliers: tuple[float, ...] = (0.4, 1.0, 2.5)
    num_inner_folds: int = Field(default=5, ge=2)


class TrainConfig(_Strict):
    """One fit. `epoch_selection`: the best epoch on an inner part of the training cases, or a number fixed in advance."""

    epochs: int = Field(default=20, ge=0)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    alpha: float = 2.0
    survival_weight: float = 1.0  # 0 for contrastive pre-training alone
    cox_weight: float = 0.0  # of Cox's partial likelihood within cancer types
    ranking_weight: float = 0.0
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)  # each modality of a case is hidden with this probability
    gradient_norm: float = 1.0
    epoch_selection: Literal["inner_validation", "fixed"] = "inner_validation"
    inner_fraction: float = Field(default=0.15, gt=0, lt=0.5)
    may_keep_start: bool = False  # the weights that the fit starts from are a candidate too


class Study(_Strict):
    """A training and evaluation plan.

    `selection`: `honest`, the held-out fold is scored once, at the end; `author`, epochs are chosen by the held-out C-index, as
    the paper's released code does, to show how much that inflates it. `training_share`: this share of each fold's training cases,
    drawn within cancer type and event, for data-efficiency curves. `baselines`: other networks
    (neural_baselines.py), trained with the first seed only.
    """

    name: str
    description: str
    preset: str = ""  # whose settings hold where the study names none
    contracts: tuple[str, ...]
    endpoint: Literal["os", "dss", "dfi", "pfi"] = "os"
    split: str
    leave_out_cancer_types: tuple[str, ...] = ()
    evaluate: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    selection: Literal["honest", "author"] = "honest"
    training_share: float = Field(default=1.0, gt=0, le=1)
    training_share_seed: int = 0
    baselines: tuple[str, ...] = ()
    cox_skip: CoxSkipConfig | None = None
    features: FeatureConfig = FeatureConfig()
    network: NetworkConfig = NetworkConfig()
    pretrain: TrainConfig = TrainConfig()
    finetune: TrainConfig = TrainConfig(epochs=10, batch_size=64, learning_rate=3e-4)
    # of the baselines that start from nothing; those that are MICE with fewer experts train as MICE does
    baseline_pretrain: TrainConfig = TrainConfig(epochs=15, batch_size=256, learning_rate=2e-3, alpha=0.0, cox_weight=1.0)

    @property
    def protocol(self) -> str:
        """Say in words how the numbers of this study come about."""
        how = {
            stage: f"chosen on an inner {config.inner_fraction:.0%} of the training cases"
            if config.epoch_selection == "inner_validation"
            else f"fixed in advance ({config.epochs})"
            for stage, config in (("pre-training", self.pretrain), ("fine-tuning", self.finetune))
        }
        epochs = "; ".join(f"{stage} epoch {text}" for stage, text in how.items())
        if self.selection == "author":
            return (
                "author: epochs chosen by the held-out C-index in pre-training and fine-tuning, as the paper's released code "
                f"does, on the folds of {self.split}; too good by construction, for comparison with the honest protocol only"
            )
        return (
            f"honest: pre-trained on all cancer types with the fold held out, fine-tuned per cancer type on the other folds of "
            f"{self.split}; {epochs}; every scaler, vocabulary, component and bin edge fitted on training cases; the "
            f"held-out fold is scored once"
        )

    def model_config_for(self, cancer_types: tuple[str, ...], input_dims: dict[str, int]) -> ModelConfig:
        """Return the network for these cancer types and fitted input widths (modality -> d)."""
        hidden = {
            "slide": (),
            "omics": self.network.omics_hidden,
            "report": self.network.report_hidden,
            "clinical": self.network.clinical_hidden,
        }
        return ModelConfig(
            cancer_types=cancer_types,
            modalities=tuple(
                ModalityConfig(name, "bag" if name == "slide" else "vector", input_dims[name], hidden[name])
                for name in self.features.modalities
                if name in input_dims
            ),
            width=self.network.width,
            num_time_bins=self.network.num_time_bins,
            block=self.network.block,
            dropout=self.network.dropout,
            scan=ScanConfig(attention_dim=min(64, self.network.width), pool=self.network.pool, reordered=self.network.reordered),
            experts=ExpertConfig(
                consensual_rank=self.network.expert_rank,
                specialised_rank=self.network.expert_rank,
                overlapping_ranks=self.network.overlapping_ranks,
                top_k=self.network.top_k,
                pre_encoder_dim_head=self.network.pre_encoder_dim_head,
                pre_encoder_mlp_dim=self.network.pre_encoder_mlp_dim,
                depth=self.network.depth,
                groups=self.network.groups,
                interaction=self.network.interaction,
            ),
            kernel_backend=self.network.kernel_backend,
            cox_skip=self.cox_skip is not None,
            head_scale=self.network.head_scale,
        )


def cohorts_of(study: Study, contracts: Mapping[str, "Contract"]) -> tuple[str, ...]:
    """Return the cohorts that a study is of; `contracts` maps cohort -> contract. Raises StudyError where there is none."""
    cohorts = tuple(cohort for cohort, contract in contracts.items() if contract.name in study.contracts)
    if not cohorts:
        raise StudyError(f"study {study.name}: no cohort of contracts {study.contracts}. Check the names in cohorts/.")
    return cohorts


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with what `changes` names, mappings merged at any depth and all else replaced."""
    both = {key: merged(base[key], value) for key, value in changes.items() if _is_mapping(base.get(key)) and _is_mapping(value)}
    return {**base, **changes, **both}


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def with_preset(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's plain contents over those of the preset that it names (`presets/<name>.yaml`). Raises StudyError."""
    name = plain.get("preset")
    if not name:
        return dict(plain)
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in PRESETS.glob("*.yaml"))
        raise StudyError(f"study {plain.get('name')}: preset {name!r}, expected one of {known}. Correct the file.")
    return merged(yaml.safe_load(path.read_text(encoding="utf-8")), plain)


def load_study(path: Path) -> Study:
    """Read and validate a study. Raises StudyError naming the file and the offending fields."""
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise StudyError(f"study {path.stem}: no file {path}, expected one of {known}. Check the name.")
    try:
        plain: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Study.model_validate(with_preset(plain))
    except yaml.YAMLError as error:
        raise StudyError(f"study {path}: not valid YAML ({error}). Correct the file.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise StudyError(f"study {path}: {problems}. Correct the file.") from error
