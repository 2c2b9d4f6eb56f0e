"""The bodies of the REST API, as the cluster linking contract has them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# --- requests ----------------------------------------------------------------------------------------


class Request(BaseModel):
    """What all bodies of requests have in common."""

    # Bodies may carry passwords, also where they do not belong.
    model_config = ConfigDict(hide_input_in_errors=True, strict=True)


class ConfigData(Request):
    """One config of a link or topic to be created."""

    name: str
    value: str | None


class CreateLinkBody(Request):
    """CreateLinkRequestData."""

    source_cluster_id: str | None = None
    destination_cluster_id: str | None = None
    remote_cluster_id: str | None = None
    cluster_link_id: str | None = None
    configs: list[ConfigData] = Field(default_factory=list, repr=False)


class ConfigValueBody(Request):
    """UpdateLinkConfigRequestData."""

    value: str = Field(repr=False)


class ConfigChangeData(Request):
    """AlterConfigBatchRequestData: one config to set, or to put back to its default."""

    name: str
    value: str | None = Field(default=None, repr=False)
    operation: Literal["SET", "DELETE"] | None = None


class AlterConfigsBody(Request):
    """AlterConfigBatchRequestDataList."""

    data: list[ConfigChangeData]
    validate_only: bool = False


class CreateMirrorBody(Request):
    """CreateMirrorTopicRequestData."""

    source_topic_name: str
    mirror_topic_name: str | None = None
    replication_factor: Annotated[int, Field(ge=1, le=2**15 - 1)] | None = None
    configs: list[ConfigData] = Field(default_factory=list)


class AlterMirrorsBody(Request):
    """AlterMirrorsRequestData: names, or a pattern."""

    mirror_topic_names: list[str] | None = None
    mirror_topic_name_pattern: str | None = None


class CreateUserBody(Request):
    """A user and its password."""

    name: str
    password: str = Field(repr=False)


class AclBody(Request):
    """CreateAclRequestData."""

    resource_type: str
    resource_name: str
    pattern_type: str
    principal: str
    host: str
    operation: str
    permission: str


class AclBatchBody(Request):
    """CreateAclRequestDataList."""

    data: list[AclBody]


# --- responses ---------------------------------------------------------------------------------------


class Error(BaseModel):
    """Every refusal."""

    error_code: int
    message: str


class ResourceMetadata(BaseModel):
    """Where a thing is found; URLs are absolute."""

    self: str
    resource_name: str | None = None


class CollectionMetadata(BaseModel):
    """Where a collection is found. Ours come in one piece."""

    self: str
    next: str | None = None


class ClusterData(BaseModel):
    """The cluster that this gateway fronts."""

    kind: str = "KafkaCluster"
    metadata: ResourceMetadata
    cluster_id: str


class ClusterDataList(BaseModel):
    """A list of the one cluster."""

    kind: str = "KafkaClusterList"
    metadata: CollectionMetadata
    data: list[ClusterData]


class TaskErrorData(BaseModel):
    """LinkTaskError."""

    error_code: str
    error_message: str


class TaskData(BaseModel):
    """LinkTask."""

    task_name: str
    state: str
    errors: list[TaskErrorData]


class CategoryData(BaseModel):
    """LinkCategory: how many mirror topics of the link are in such a state."""

    state_category: str
    count: int


class LinkData(BaseModel):
    """ListLinksResponseData."""

    kind: str = "KafkaLinkData"
    metadata: ResourceMetadata
    source_cluster_id: str | None
    destination_cluster_id: str | None
    remote_cluster_id: str | None
    link_name: str
    link_id: str
    cluster_link_id: str
    topic_names: list[str]
    link_error: str
    link_error_message: str | None
    link_state: str
    tasks: list[TaskData] | None
    category_counts: list[CategoryData]


class LinkDataList(BaseModel):
    """ListLinksResponseDataList."""

    kind: str = "KafkaLinkDataList"
    metadata: CollectionMetadata
    data: list[LinkData]


class LinkConfigData(BaseModel):
    """ListLinkConfigsResponseData. The value is null for a secret, and where there is none.

    `no_effect` is Causeway's own: why the config changes nothing here, null if it does.
    """

    kind: str = "KafkaLinkConfigData"
    metadata: ResourceMetadata
    cluster_id: str
    name: str
    value: str | None
    is_default: bool
    is_read_only: bool
    is_sensitive: bool
    source: str
    synonyms: list[str]
    link_name: str
    no_effect: str | None


class LinkConfigDataList(BaseModel):
    """ListLinkConfigsResponseDataList."""

    kind: str = "KafkaLinkConfigDataList"
    metadata: CollectionMetadata
    data: list[LinkConfigData]


class LagData(BaseModel):
    """MirrorLag."""

    partition: int
    lag: int
    last_source_fetch_offset: int


class OpenTransactionData(BaseModel):
    """A transaction at the source that a mirror waits for; Causeway's own."""

    partition: int
    start_offset: int
    producer_id: int | None
    last_write_ms: int | None
    waiting_ms: int


class MirrorData(BaseModel):
    """ListMirrorTopicsResponseData, and what holds the mirror up."""

    kind: str = "KafkaMirrorData"
    metadata: ResourceMetadata
    link_name: str
    mirror_topic_name: str
    source_topic_name: str
    num_partitions: int
    mirror_lags: list[LagData]
    mirror_status: str
    mirror_topic_error: str
    state_time_ms: int
    mirror_state_transition_errors: list[TaskErrorData]
    open_transactions: list[OpenTransactionData]


class MirrorDataList(BaseModel):
    """ListMirrorTopicsResponseDataList."""

    kind: str = "KafkaMirrorDataList"
    metadata: CollectionMetadata
    data: list[MirrorData]


class AlterMirrorData(BaseModel):
    """AlterMirrorStatusResponseData; the last two fields belong to a verb that we do not have."""

    kind: str = "AlterMirrorsData"
    metadata: ResourceMetadata
    mirror_topic_name: str
    error_code: int | None
    error_message: str | None
    mirror_lags: list[LagData]
    messages_truncated: int | None = None
    partition_level_truncation_data: list[object] = Field(default_factory=list)


class AlterMirrorDataList(BaseModel):
    """AlterMirrorStatusResponseDataList. The kind is the same for all verbs."""

    kind: str = "KafkaPromoteMirror"
    metadata: CollectionMetadata
    data: list[AlterMirrorData]


class UserData(BaseModel):
    """A user, without anything about its password."""

    kind: str = "CausewayUser"
    metadata: ResourceMetadata
    name: str
    mechanisms: list[str]


class UserDataList(BaseModel):
    """All users in the state topic."""

    kind: str = "CausewayUserList"
    metadata: CollectionMetadata
    data: list[UserData]


class AclData(BaseModel):
    """AclData, and who wants it to be there: `admin`, `link <name>`, or several; Causeway's own."""

    kind: str = "KafkaAcl"
    metadata: ResourceMetadata
    cluster_id: str
    resource_type: str
    resource_name: str
    pattern_type: str
    principal: str
    host: str
    operation: str
    permission: str
    owners: list[str]


class AclDataList(BaseModel):
    """AclDataList."""

    kind: str = "KafkaAclList"
    metadata: CollectionMetadata
    data: list[AclData]
