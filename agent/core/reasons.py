"""Every reason that is ever shown, with its meaning, cause and remedy.

A reason is the CamelCase word on /status, in logs, events and metrics. One that is not in this file
does not exist: the enum is the catalogue, and the README's table is made from it.
"""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a reason means, what usually causes it, and what an operator can do."""

    meaning: str
    cause: str
    remedy: str


class Reason(StrEnum):
    """The reasons, grouped by where they arise."""

    # the document
    CONFIG_MISSING = "ConfigMissing"
    CONFIG_UNREADABLE = "ConfigUnreadable"
    CONFIG_REJECTED = "ConfigRejected"
    CONFIG_TOO_LARGE = "ConfigTooLarge"
    CONFIG_MOUNT_STATIC = "ConfigMountStatic"
    TOO_MANY_REMOVALS = "TooManyRemovals"
    INVALID_NAME = "InvalidName"
    INVALID_ENTRY = "InvalidEntry"
    INVALID_STORAGE_URI = "InvalidStorageUri"
    INVALID_MEMORY = "InvalidMemory"
    DUPLICATE_NAME = "DuplicateName"
    # storage and network
    UNSUPPORTED_SCHEME = "UnsupportedScheme"
    MISSING_DEPENDENCY = "MissingDependency"
    NOT_FOUND = "NotFound"
    ACCESS_DENIED = "AccessDenied"
    INVALID_CREDENTIALS = "InvalidCredentials"
    CLOCK_SKEW = "ClockSkew"
    OBJECT_ARCHIVED = "ObjectArchived"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    STORAGE_THROTTLED = "StorageThrottled"
    STORAGE_TIMEOUT = "StorageTimeout"
    STORAGE_ERROR = "StorageError"
    TLS_ERROR = "TlsError"
    REDIRECT_REFUSED = "RedirectRefused"
    FORBIDDEN_ADDRESS = "ForbiddenAddress"
    FORBIDDEN_PATH = "ForbiddenPath"
    FORBIDDEN_URI = "ForbiddenUri"
    INVALID_OBJECT_KEY = "InvalidObjectKey"
    INTEGRITY_MISMATCH = "IntegrityMismatch"
    SIGNATURE_INVALID = "SignatureInvalid"
    SNAPSHOT_CHANGED = "SnapshotChanged"
    ARCHIVE_REFUSED = "ArchiveRefused"
    ARCHIVE_TOO_LARGE = "ArchiveTooLarge"
    # disk
    DISK_FULL = "DiskFull"
    DISK_BUDGET_EXCEEDED = "DiskBudgetExceeded"
    DISK_ERROR = "DiskError"
    READ_ONLY_VOLUME = "ReadOnlyVolume"
    RESOURCE_EXHAUSTED = "ResourceExhausted"
    CANNOT_REMOVE = "CannotRemove"
    STORE_IN_USE = "StoreInUse"
    # the model server
    SERVER_UNAVAILABLE = "ServerUnavailable"
    SERVER_CRASHED = "ServerCrashed"
    LOAD_REJECTED = "LoadRejected"
    LOAD_NOT_SUPPORTED = "LoadNotSupported"
    LOAD_TIMEOUT = "LoadTimeout"
    UNLOAD_FAILED = "UnloadFailed"
    # planning
    QUEUED = "Queued"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    UNLOADING = "Unloading"
    UPDATING = "Updating"
    WAITING_FOR_SERVER = "WaitingForServer"
    MEMORY_BUDGET_EXCEEDED = "MemoryBudgetExceeded"
    EXCEEDS_MEMORY_BUDGET = "ExceedsMemoryBudget"
    OVER_COMMITTED = "OverCommitted"
    UPDATE_NEEDS_ROOM = "UpdateNeedsRoom"
    INTERNAL_ERROR = "InternalError"
    # the control plane
    INFERENCE_SERVICE_NOT_FOUND = "InferenceServiceNotFound"
    INFERENCE_SERVICE_NOT_READY = "InferenceServiceNotReady"
    IS_NOT_MMS_PREDICTOR = "IsNotMMSPredictor"
    MEMORY_RESOURCE_NOT_AVAILABLE = "MemoryResourceNotAvailable"
    INVALID_SPEC = "InvalidSpec"
    FOREIGN_WRITER = "ForeignWriter"
    NO_READY_REPLICAS = "NoReadyReplicas"
    AGENT_UNREACHABLE = "AgentUnreachable"
    CONFIG_PENDING = "ConfigPending"
    LOADED = "Loaded"
    API_UNAVAILABLE = "ApiUnavailable"
    API_CONFLICT = "ApiConflict"
    API_REJECTED = "ApiRejected"
    API_NOT_FOUND = "ApiNotFound"
    API_EXPIRED = "ApiExpired"
