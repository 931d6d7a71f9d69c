"""Settings: one frozen value per process, read once at start from headgate.toml, then from HEADGATE_* variables.

HEADGATE_CONFIG names the file (default: headgate.toml in the current folder, if
it is there). A nested key is written with two underscores:
HEADGATE_KAFKA__BOOTSTRAP_SERVERS. Unknown keys fail. Paths in the file are
relative to the file's folder.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, TypeGuard, TypeVar

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as PydanticSettingsError

PREFIX = "HEADGATE_"
CONFIG = PREFIX + "CONFIG"


class SettingsError(Exception):
    """A wrong setting, named. The process stops at start."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KafkaSecuritySettings(_Section):
    """How the brokers are spoken to, and how a process proves who it is."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """As the brokers' listener has it."""
    ssl_ca_file: Path | None = None
    """Who may have signed the brokers' certificates; by default the system's authorities."""
    ssl_certificate_file: Path | None = None
    """This process's own certificate, for brokers that ask for one (mTLS)."""
    ssl_key_file: Path | None = None
    """Its key, unencrypted; by default it is in the certificate's file."""
    ssl_check_hostname: bool = True
    """Whether a broker's certificate must be of the name that it is reached by."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    oauth_token_url: str | None = None
    """OAUTHBEARER: where tokens are had, by the grant of client credentials."""
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_client_secret_file: Path | None = None
    oauth_scope: str | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Half of a way to log in, or one that the protocol would pass over, is a mistake."""
        if problem := self._misfit():
            raise PydanticCustomError("kafka_security", "{problem}", {"problem": f"kafka.{problem}"})
        return self

    def _misfit(self) -> str | None:
        """The first setting that the others leave without effect, or that they need."""
        tls, sasl = self.security_protocol.endswith("SSL"), self.security_protocol.startswith("SASL")
        by_token = self.sasl_mechanism == "OAUTHBEARER"
        by_password = not by_token and self.sasl_mechanism is not None
        used = {"ssl_": tls, "sasl_": sasl, "sasl_username": by_password, "sasl_password": by_password}
        for start, is_used in (used | {"oauth_": by_token}).items():
            for name, field in KafkaSecuritySettings.model_fields.items():
                if name.startswith(start) and not is_used and getattr(self, name) != field.default:
                    mechanism = f" and sasl_mechanism {self.sasl_mechanism}" if sasl else ""
                    return f"{name} has no effect with security_protocol {self.security_protocol}{mechanism}"
        needed = {
            "sasl_mechanism": sasl,
            **dict.fromkeys(("sasl_username", "sasl_password"), by_password),
            **dict.fromkeys(("oauth_token_url", "oauth_client_id", "oauth_client_secret"), by_token),
            "ssl_certificate_file": self.ssl_key_file is not None,
        }
        missing = (name for name, is_needed in needed.items() if is_needed and not self._has(name))
        return next((f"{name} is missing" for name in missing), None)

    def _has(self, name: str) -> bool:
        """Whether it is set, itself or as a file."""
        return any(getattr(self, each, None) is not None for each in (name, f"{name}_file"))


class KafkaSettings(KafkaSecuritySettings):
    """The broker and the topics."""

    bootstrap_servers: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    partitions: int = Field(8, ge=1)
    """Partitions of a newly created topic: the most processes a stage can have at work."""
    replication_factor: int = Field(1, ge=1)
    group_instance_id: str | None = None
    """A name of this process that stays the same over a restart: with it a restart moves no partition."""
    session_timeout_s: float = Field(10.0, ge=6)
    """How long the group waits for a process that is silent before its partitions move. With a group_instance_id a
    restart must be over by then."""
    drain_s: float = Field(20.0, gt=0)
    """How long work in flight may take to finish when partitions move or the process is told to stop."""
    transaction_timeout_s: float = Field(10.0, gt=0)
    """How long a dead process's open transaction holds back readers."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """At least once saves the transactions, and their milliseconds; after a crash or a move some records come twice."""
    max_in_flight_bytes: int = Field(64 * 1024 * 1024, ge=1)
    """Input bytes of the records that a process works on."""
    live_objective_s: float = Field(30.0, gt=0)
    """When the oldest live record is older than this, the process begins no backfill."""
    dedupe_window_s: float = Field(24 * 3600.0, ge=0, le=2 * 24 * 3600)
    """A ticket published again within this time is answered once; 0 remembers nothing."""
    dedupe_limit: int = Field(100_000, ge=1)
    """Most tickets remembered of a partition, about 300 bytes of memory each; past it the oldest are forgotten."""


class RouterSettings(_Section):
    """The classifier and its policy."""

    model: Path = Path("router/model.onnx")
    """One file; one that takes its place is in force some seconds later, without a restart."""
    shadow_model: Path | None = None
    """A candidate that scores the same tickets and decides nothing: the events hold what it would have done. It costs
    as much time as the model in force."""
    device: Literal["cpu", "cuda"] = "cpu"
    """A GPU wants a graph in floating point: int8 would go back to the CPU node by node."""
    threads: int | None = Field(None, ge=1)
    """Tickets that the graph reads side by side, one thread each; by default all cores that the process may use."""
    batch_size: int = Field(32, ge=1)
    usd_per_hour: float = Field(0.04, ge=0)
    """Price of this stage's compute: a cloud CPU core by default (a guess, to be set)."""


class Tier1Settings(_Section):
    """The cheap tier."""

    engine: Literal["openai", "vllm"] = "openai"
    """Any OpenAI-compatible server, or vLLM in this process (the extra `vllm`)."""
    base_url: str = "http://127.0.0.1:8081/v1"
    model: str = "smollm2-135m-fernway"
    """The model's name, there and in the drafts."""
    models: Path | None = None
    """Several models with their shares of the tickets, instead of `model`; one that takes the file's place is in force
    some seconds later, without a restart."""
    model_folder: Path | None = None
    """vLLM in process: the base model's folder."""
    device: Literal["cpu", "cuda"] = "cuda"
    """vLLM in process: where it runs."""
    api_key: SecretStr | None = None
    context_tokens: int = Field(768, ge=64)
    """The model's window: prompt and answer. A longer prompt is cut, and the draft says so."""
    max_tokens: int = Field(120, ge=1)
    in_flight: int = Field(16, ge=1)
    """Tickets that the process has begun and not committed: about what the engine generates at a time."""
    timeout_s: float = Field(90.0, gt=0)
    cost: Literal["hour", "token"] = "hour"
    """Which price makes a draft's cost; events have both."""
    usd_per_hour: float = Field(0.08, ge=0)
    """Price of the engine while it is busy: two cloud CPU cores by default (a guess, to be set)."""
    usd_per_million_prompt_tokens: float | None = Field(None, ge=0)
    usd_per_million_completion_tokens: float | None = Field(None, ge=0)


class TargetSettings(_Section):
    """A further model of tier-2."""

    provider: Literal["anthropic", "openai"]
    base_url: str
    model: str
    role: Literal["primary", "fallback", "cheaper"] = "fallback"
    """A primary shares the tickets by weight; a fallback gets those that no primary can take, in the order of the list;
    a cheaper one gets those for which a spend limit leaves no more, if `when_spent` says so."""
    weight: float = Field(1.0, gt=0)
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    api_key_env: str | None = None
    """Name of the variable that holds the key."""


class TenantSpendSettings(_Section):
    """Spend limits of one tenant, dollars by UTC calendar minute, day and month."""

    minute_usd: float | None = Field(None, ge=0)
    day_usd: float | None = Field(None, ge=0)
    month_usd: float | None = Field(None, ge=0)


class SpendSettings(TenantSpendSettings):
    """Spend limits of tier-2, all processes together."""

    each_tenant: TenantSpendSettings = TenantSpendSettings()
    """For every tenant that has none of its own in `tenants`."""
    tenants: dict[str, TenantSpendSettings] = {}


class FrontierSettings(_Section):
    """A frontier API."""

    provider: Literal["anthropic", "openai"] = "anthropic"
    base_url: str = "https://api.anthropic.com"
    model: str = "claude-sonnet-5-5"
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    weight: float = Field(1.0, gt=0)
    """Share of the tickets, relative to the other primaries in `targets`."""
    targets: tuple[TargetSettings, ...] = ()
    """Further providers and models."""
    max_tokens: int = Field(500, ge=1)
    in_flight: int = Field(64, ge=1)
    """Tickets that the process has begun and not committed: most calls at a time, and most that a crash pays twice."""
    timeout_s: float = Field(60.0, gt=0)
    deadline_s: float = Field(120.0, gt=0)
    """From the first call for a ticket, waits and retries included."""
    hedge: bool = False
    """Ask a second time when an answer takes longer than 95 % of the others did, for at most 5 % of the calls."""
    redact: bool = True
    """E-mail addresses, phone, card and account numbers stay here: the provider sees placeholders."""
    phone_region: str = Field("US", pattern="^[A-Z]{2}$")
    """The country of phone numbers that are written without one."""
    prices: Path | None = None
    """A price table of your own; its rows win over the built-in ones."""
    when_spent: tuple[Literal["hold", "cheaper_model", "handoff"], ...] = ("handoff",)
    """What becomes of a ticket for which a spend limit leaves no more: the first that is possible."""
    hold_s: float = Field(3600.0, gt=0, allow_inf_nan=False)
    """A ticket is held only if the limit's period ends within this time."""


class Tier2Settings(FrontierSettings):
    """Tier-2."""

    spend: SpendSettings = SpendSettings()
    """For tier-2 and the judge together."""
    backfill: Literal["calls", "batch"] = "calls"
    """How the slow lane is answered: by calls like any ticket, or by the provider's batch interface, which
    `headgate run tier2-batch` asks."""
    batch_size: int = Field(1_000, ge=1, le=10_000)
    """Most tickets of a batch."""
    batch_wait_s: float = Field(300.0, gt=0)
    """A smaller batch is submitted when its first ticket has waited so long."""
    batch_poll_s: float = Field(60.0, gt=0)
    """Between two looks at a batch."""


class JudgeSettings(FrontierSettings):
    """Who judges the audits. Best a model that writes no answers here: models prefer their own."""

    by: Literal["frontier", "rubric"] = "frontier"
    """`rubric`: the example company's tickets have one each."""
    company: Path = Path()
    """With `rubric`: the example company's folder."""
    in_flight: int = Field(8, ge=1)
    """Audits that the process has begun and not committed: most calls at a time."""


class CheckerSettings(_Section):
    """The gates and the scorer."""

    scorer: Path = Path("checker/scorer.onnx")
    batch_size: int = Field(32, ge=1)
    usd_per_hour: float = Field(0.04, ge=0)


class CertifySettings(_Section):
    """What is promised of the answers that ship, and what it may cost to know."""

    alpha: float = Field(0.05, gt=0, lt=1)
    """Share of bad answers among those shipped from tier-1 that is tolerated."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Probability that a certificate is wrong."""
    own_from: int = Field(300, ge=1)
    """Categories with fewer labels share a certificate."""
    valid_days: float = Field(30.0, gt=0)
    """A certificate's life."""
    audit_share: float = Field(0.05, ge=0, le=1)
    """Share of the tickets whose tier-1 draft is judged, in categories that ship."""
    shadow_audit_share: float = Field(0.2, ge=0, le=1)
    """The same in the shadow, where labels are what is missing."""
    warning_audit_share: float = Field(0.25, ge=0, le=1)
    """The same while an early warning is on: the checker refuses drafts more or less often than the certificate's
    labels say."""
    judge_miss: float = Field(0.0, ge=0, lt=1)
    """Upper bound on the share of bad answers that the judge accepts: `headgate audit status` has it. 0 trusts it."""
    judge_delta: float = Field(0.0, ge=0, lt=1)
    """Probability that this bound is wrong: a part of delta."""
    tier1_usd: float = Field(0.00002, ge=0)
    """What a draft costs; only its proportion to tier-2's price matters."""
    tier2_usd: float = Field(0.0011, gt=0)
    max_latency_ratio: float = Field(1.5, gt=0)
    """A candidate is rolled back if 95 % of its tickets take so many times as long as under the policy in force; inf
    allows anything."""
    max_cost_ratio: float = Field(1.5, gt=0)
    """The same of the mean cost of a ticket."""
    guard_delta: float = Field(0.05, gt=0, lt=1)
    """Probability that a candidate within both ratios is rolled back all the same."""
    guard_from: int = Field(100, ge=20)
    """A candidate's tickets at the first comparison; the others are at 2, 4, 8, ..., 128 times so many."""
    promote_after: int | None = Field(None, ge=1)
    """A candidate is promoted by itself at the first comparison of so many tickets or more that finds no breach; not
    set: never."""
    interval_s: float = Field(10.0, gt=0)
    """Between two looks at labels and events."""


class ScoreboardSettings(_Section):
    """The scoreboard and its console."""

    host: str = "127.0.0.1"
    """The address that the console and its JSON are served on. They ask for no password."""
    port: int = Field(8600, ge=0, le=65535)
    """0 takes a free one."""
    tickets: int = Field(5_000, ge=1)
    """Tickets of a partition whose journeys are remembered, about 5 kB of memory each."""
    labels: int = Field(50_000, ge=1)
    """Audits' labels of a partition that are remembered, about 500 bytes of memory each."""


class Settings(BaseSettings):
    """Everything a process is told from outside."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_prefix=PREFIX, env_nested_delimiter="__"
    )

    company: str = "Fernway"
    """The name in both tiers' prompts: for tier-1 the one its adapter was trained with."""
    knowledge: Path = Path("knowledge.toml")
    """The company's passages: tier-2 answers from them, the checker compares answers with them."""
    policy: Path = Path("policy.json")
    """Thresholds by category, for router and checker."""
    store: AnyUrl | Path = Field(Path("models"), union_mode="left_to_right")
    """Where `headgate model` keeps models: a folder, or s3://bucket/prefix; AWS_* variables say how to get there."""
    kafka: KafkaSettings = KafkaSettings()
    router: RouterSettings = RouterSettings()
    tier1: Tier1Settings = Tier1Settings()
    tier2: Tier2Settings = Tier2Settings()
    checker: CheckerSettings = CheckerSettings()
    judge: JudgeSettings = JudgeSettings()
    certify: CertifySettings = CertifySettings()
    scoreboard: ScoreboardSettings = ScoreboardSettings()
    health_port: int = Field(0, ge=0, le=65535)
    """Port of /healthz, /readyz and /metrics; 0 takes a free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def config_file() -> Path:
    """The configuration file in force; it need not exist unless HEADGATE_CONFIG names it.

    Raises: SettingsError if HEADGATE_CONFIG names a file that is not there.
    """
    named = os.environ.get(CONFIG)
    if named and not Path(named).is_file():
        raise SettingsError(f"{CONFIG}: there is no file {named}")
    return Path(named or "headgate.toml")


def load() -> Settings:
    """Read the settings.

    Raises: SettingsError naming the file, the setting and what is wrong with it; values are not shown.
    """
    path = config_file()
    if unknown := _unknown_variables():
        raise SettingsError(f"unknown settings in the environment: {', '.join(unknown)}")
    try:
        settings = Settings()
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise SettingsError("wrong settings: " + "; ".join(problems)) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    except PydanticSettingsError as exc:
        raise SettingsError(f"wrong settings: {exc}") from exc
    return _anchored(settings, path.parent.resolve())


def secret(name: str, value: SecretStr | None, file: Path | None) -> str | None:
    """A secret, from the setting of that name or from the file that the one beside it names; None if neither is set.

    Raises: SettingsError naming the setting, never the secret.
    """
    if value is not None:
        return value.get_secret_value()
    if file is None:
        return None
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{name}_file can't be read: {type(exc).__name__}") from exc


def _unknown_variables() -> list[str]:
    """HEADGATE_* variables that name no setting; pydantic-settings would pass over a misspelt one in silence."""
    known = {CONFIG, *_variables(Settings, PREFIX)}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name.upper() not in known)


def _variables(section: type[BaseModel], prefix: str) -> set[str]:
    """The variables that set something in a section."""
    known = set()
    for name, field in section.model_fields.items():
        inner, variable = field.annotation, (prefix + name).upper()
        known |= {variable} if not _is_section(inner) else _variables(inner, f"{variable}__")
    return known


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


S = TypeVar("S", bound=BaseModel)


def _anchored(section: S, folder: Path) -> S:
    """The same settings with every path made absolute, relative ones from the configuration file's folder."""

    def anchored(value: Any) -> Any:
        match value:
            case Path():
                return folder / value
            case BaseModel():
                return _anchored(value, folder)
            case tuple():
                return tuple(anchored(each) for each in value)
            case _:
                return value

    return section.model_copy(update={name: anchored(value) for name, value in section})
