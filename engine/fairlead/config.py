"""From YAML and ``key=value`` overrides to one validated, immutable run configuration.

The rules, all of them:

- A file is one mapping; a key given twice is an error.
- ``key.sub=value`` replaces one value; the value is read as YAML. A key that starts with a
  stage's name is short for ``stages.KEY``.
- ``${a.b}`` stands for the value at ``a.b``. ``???`` marks a value the user must give.
- A component is a mapping with ``name:`` and the component's own fields, or just its name.
- A key that nobody knows is an error that suggests the nearest one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from fairlead.errors import ConfigError, did_you_mean, listing
from fairlead.faults import Fault, component_error, explain
from fairlead.registry import Registry, singular
from fairlead.yaml_reader import read_yaml

MISSING = "???"


class Config(BaseModel):
    """Base of every configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _name_defaults(cls, data: Any) -> Any:
        """Let ``algorithm: {lam: 1}`` set one field of the component that is the default."""
        if not isinstance(data, Mapping):
            return data
        named = {
            key: {"name": cls.model_fields[key].default, **value}
            for key, value in data.items()
            if key in cls.model_fields
            and isinstance(cls.model_fields[key].default, str)
            and any(isinstance(mark, ComponentOf) for mark in cls.model_fields[key].metadata)
            and isinstance(value, Mapping)
        }
        return {**data, **named}


@dataclass(frozen=True, slots=True)
class Spec:
    """A component as a configuration names it: which one, and its validated settings."""

    kind: str
    name: str
    factory: SkipValidation[Any]
    config: Config

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Make the component: its class called with the settings, then ``args``."""
        return self.factory(self.config, *args, **kwargs)

    def dump(self) -> dict[str, Any]:
        """Return the settings as they would stand in YAML."""
        return {"name": self.name, **self.config.model_dump(mode="json")}


class _SettingsError(Exception):
    """A fault inside a component's settings, on its way up with its path."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(str(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class ComponentOf:
    """Annotates a field that holds one component: ``Annotated[Spec, ComponentOf(KIND)]``.

    Attributes:
        kind: One of `fairlead.registry.Registry.kinds`.
        role: For losses: ``policy``, ``value``, ``preference`` or ``auxiliary``.
    """

    kind: str
    role: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Tell pydantic to look the component up and to validate its settings."""
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(Spec.dump),
        )

    def _validate(self, value: Any, info: ValidationInfo) -> Spec:
        if isinstance(value, Spec):
            return value
        try:
            return _make_spec(self.kind, self.role, value, (info.context or {})["registry"])
        except _SettingsError as error:
            raise component_error(error.faults) from None


def _make_spec(kind: str, role: str, value: Any, registry: Registry) -> Spec:
    what = singular(kind)
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        message = (
            f"write this {what} as a mapping with 'name:' and its own fields, or just its name; "
            f"got {value!r}. There are: {listing(_visible(registry, kind, role))}."
        )
        raise _SettingsError([((), message)])
    name = value["name"]
    try:
        factory = registry.get(kind, f"{role}/{name}" if role else name).load()
    except ConfigError as error:
        raise _SettingsError([(("name",), str(error))]) from error
    rest = {key: item for key, item in value.items() if key != "name"}
    model: type[Config] = getattr(factory, "Config", Config)
    return Spec(kind, name, factory, _validated(model, rest, registry))


def _visible(registry: Registry, kind: str, role: str) -> list[str]:
    prefix = f"{role}/" if role else ""
    return [n.removeprefix(prefix) for n in registry.names(kind) if n.startswith(prefix)]


def _validated(model: type[Config], value: Any, registry: Registry) -> Any:
    try:
        return model.model_validate(value, context={"registry": registry})
    except ValidationError as error:
        raise _SettingsError(explain(model, error)) from error


def named(name: str) -> Any:
    """Return a component's name as the default of a field; validation makes a `Spec` of it."""
    return name


DataSourceSpec = Annotated[Spec, ComponentOf("data_sources")]
RewardSpec = Annotated[Spec, ComponentOf("reward_models")]
AlgorithmSpec = Annotated[Spec, ComponentOf("algorithms")]
PolicyLossSpec = Annotated[Spec, ComponentOf("losses", "policy")]
ValueLossSpec = Annotated[Spec, ComponentOf("losses", "value")]
PreferenceLossSpec = Annotated[Spec, ComponentOf("losses", "preference")]
AuxiliaryLossSpec = Annotated[Spec, ComponentOf("losses", "auxiliary")]
RolloutBackendSpec = Annotated[Spec, ComponentOf("rollout_backends")]
OptimizerSpec = Annotated[Spec, ComponentOf("optimizers")]
EvaluatorSpec = Annotated[Spec, ComponentOf("evaluators")]
LoggerSpec = Annotated[Spec, ComponentOf("loggers")]
StageSpec = Annotated[Spec, ComponentOf("stages")]


class RunConfig(Config):
    """A whole run.

    Attributes:
        name: What to call it in the report.
        seed: Decides data order, initial weights and sampling.
        device: ``auto`` takes the GPU where there is one.
        precision: Of the forward passes. Trained weights and optimizer state stay float32;
            with ``bfloat16`` the trained models and the reference run under autocast, and
            reward models are held in bfloat16.
        attention: Of the models' forward passes; ``auto`` is transformers' choice for each.
            ``xformers`` needs the extra of that name and a GPU.
        gradient_checkpointing: Trained models keep each layer's input alone and compute the
            rest again in the backward pass: less memory for activations, and more time.
        offload: Reference and reward models, and the optimizers' moments in the RL stage, are on
            a GPU only while they are used. On a CPU it changes nothing.
        threads: CPU threads torch may use; None leaves torch's own choice.
        heldout: Share of every data source kept out of all training, by user where known,
            else by prompt; one rule for all stages, so that no stage has seen what another
            is tested on.
        data: Inputs by name, for ``${data.NAME}``.
        plugins: Modules or ``.py`` files to load, as ``--plugin`` does.
        trust_remote_code: Let model directories and hub names run their own code.
        keep_checkpoints: How many checkpoints of a stage to keep.
        loggers: Where metrics go besides console, JSONL and CSV.
        stages: The pipeline, in order, by name.
    """

    name: str = "run"
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "xformers"] = "auto"
    gradient_checkpointing: bool = False
    offload: bool = False
    threads: int | None = Field(default=None, ge=1)
    heldout: float = Field(default=0.05, ge=0.0, lt=1.0)
    data: dict[str, Any] = {}
    plugins: list[str] = []
    trust_remote_code: bool = False
    keep_checkpoints: int = Field(default=2, ge=1)
    loggers: list[LoggerSpec] = []
    stages: dict[str, StageSpec]


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a configuration file as plain data.

    Raises:
        ConfigError: When it is missing or not one mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the configuration {path} cannot be read: {error}. Give a YAML file with --config, "
            "or a named recipe with --recipe (fairlead recipes list)."
        ) from error
    data = read_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration is one mapping; got {type(data).__name__}.")
    return data


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``raw`` with each ``key.sub=value`` applied, left to right.

    Raises:
        ConfigError: When an override is not ``key=value`` or leads through a plain value.
    """
    data: dict[str, Any] = _copy(raw)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"the override {override!r} is not key=value, such as ppo.iterations=20."
            )
        parts = key.split(".")
        stages = data.get("stages") or {}
        if parts[0] in stages and parts[0] not in RunConfig.model_fields:
            parts = ["stages", *parts]
        _assign(data, parts, read_yaml(text, f"override {override!r}"), override)
    return data


def _assign(data: Any, parts: list[str], value: Any, override: str) -> None:
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        key: Any = part
        if isinstance(data, list):
            if not part.isdigit() or int(part) >= len(data):
                raise ConfigError(
                    f"override {override!r}: {'.'.join(parts[:depth])} is a list of "
                    f"{len(data)}; {part!r} is not an index of it (they start at 0)."
                )
            key = int(part)
        elif not isinstance(data, dict):
            raise ConfigError(
                f"override {override!r}: {'.'.join(parts[:depth])} is {data!r}, which has no "
                f"keys; set it whole."
            )
        elif part not in data or (data[part] is None and not last):
            data[part] = {}
        if last:
            data[key] = value
        else:
            if isinstance(data[key], str) and not data[key].startswith("${"):
                data[key] = {"name": data[key]}  # a component given by its bare name
            data = data[key]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.]+)\}")


def interpolate(raw: dict[str, Any]) -> dict[str, Any]:
    """Return ``raw`` with every ``${a.b}`` replaced.

    Raises:
        ConfigError: When it points nowhere, at itself, or at a value still to be given.
    """
    missing = list(_missing(raw))
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} must be given: add "
            f"{' '.join(f'{path}=VALUE' for path in missing)} to the command line, or set "
            "it in the configuration."
        )

    def look_up(path: str, trail: tuple[str, ...]) -> Any:
        if path in trail:
            raise ConfigError(f"${{{path}}} refers to itself: {' -> '.join((*trail, path))}.")
        value: Any = raw
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ConfigError(f"${{{path}}} points at nothing: there is no {part!r} there.")
            value = value[part]
        return walk(value, (*trail, path))

    def walk(value: Any, trail: tuple[str, ...] = ()) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, trail) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, trail) for item in value]
        if not isinstance(value, str):
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return look_up(whole[1], trail)
        return _REFERENCE.sub(lambda match: str(look_up(match[1], trail)), value)

    return {key: walk(item) for key, item in raw.items()}


def _missing(value: Any, path: str = "") -> Iterator[str]:
    if value == MISSING:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else items:
        yield from _missing(item, f"{path}.{key}" if path else str(key))


def build_config(raw: dict[str, Any], registry: Registry) -> RunConfig:
    """Validate plain data into a run configuration.

    Raises:
        ConfigError: Lists every fault with its path, what was given and what is allowed.
    """
    try:
        config: RunConfig = _validated(RunConfig, interpolate(raw), registry)
    except _SettingsError as error:
        lines = [f"  {'.'.join(path) or '(top)'}: {text}" for path, text in error.faults]
        raise ConfigError("the configuration is not valid:\n" + "\n".join(lines)) from None
    if not re.fullmatch(r"[\w][\w .-]*", config.name) or ".." in config.name:
        raise ConfigError(
            f"name: {config.name!r} cannot be a run's name, since its output directory is called "
            "that; use letters, digits, spaces, and . - _ between them."
        )
    _check_stages(config)
    return config


def _check_stages(config: RunConfig) -> None:
    if not config.stages:
        raise ConfigError("the configuration has no stages; give at least one under 'stages:'.")
    seen: list[str] = []
    for name, spec in config.stages.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in RunConfig.model_fields:
            raise ConfigError(
                f"{name!r} cannot be a stage's name: use letters, digits, - and _, and none of "
                f"{listing(RunConfig.model_fields)}."
            )
        for reference in stage_references(spec.dump()):
            if reference not in seen:
                raise ConfigError(
                    f"stage {name!r} takes stage:{reference}, which is not an earlier stage"
                    f"{did_you_mean(reference, seen)}. Earlier stages: {listing(seen)}."
                )
        seen.append(name)


def stage_references(value: Any) -> list[str]:
    """Return the stage names a configuration refers to as ``stage:NAME[/SUB]``."""
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in stage_references(item)]
    if isinstance(value, list):
        return [name for item in value for name in stage_references(item)]
    if isinstance(value, str) and value.startswith("stage:"):
        return [value.removeprefix("stage:").partition("/")[0]]
    return []


def model_references(value: Any) -> list[str]:
    """Return every ``model:`` that a component's settings name, in components inside it too."""
    if isinstance(value, Mapping):
        inner = [found for item in value.values() for found in model_references(item)]
        return [value["model"], *inner] if isinstance(value.get("model"), str) else inner
    if isinstance(value, list):
        return [found for item in value for found in model_references(item)]
    return []
