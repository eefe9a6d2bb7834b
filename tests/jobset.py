"""A strict JSON schema of what scripts/gke_jobset.yaml and the manifests of docs/clusters.md use.

Written after the API's own definitions (JobSet v1alpha2, batch/v1 Job, v1 Pod and claim): names,
types and values of the fields that are used; any other field is refused, so that a slip of the pen
is found without a cluster.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
# A quantity is a number, or a string of one with a unit.
AMOUNTS: Schema = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [COUNT, {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}]
    },
}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def fields(required: str, optional: str = "", **schemas: Schema) -> Schema:
    """An object of these fields and no others; a name that has no schema is an error here."""
    names = [*required.split(), *optional.split()]
    assert sorted(names) == sorted(schemas), set(names) ^ set(schemas)
    return {
        "type": "object",
        "properties": schemas,
        "required": required.split(),
        "additionalProperties": False,
    }


def some(item: Schema) -> Schema:
    """A list of one item at least."""
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> Schema:
    """One of these strings."""
    return {"enum": list(values)}


METADATA = fields("name", "annotations labels", name=NAME, annotations=LABELS, labels=LABELS)

CONTAINER = fields(
    "name image args",
    "resources volumeMounts",
    name=NAME,
    image=TEXT,
    args=some(TEXT),
    resources=fields("", "requests limits", requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts=some(fields("name mountPath", name=NAME, mountPath=TEXT)),
)

POD = fields(
    "containers restartPolicy",
    "nodeSelector terminationGracePeriodSeconds volumes",
    containers=some(CONTAINER),
    restartPolicy=one_of("Never"),  # the only one that a pod failure policy goes with
    nodeSelector=LABELS,
    terminationGracePeriodSeconds=COUNT,
    volumes=some(
        fields(
            "name",
            "persistentVolumeClaim emptyDir",
            name=NAME,
            persistentVolumeClaim=fields("claimName", claimName=NAME),
            emptyDir=fields("", "medium", medium=one_of("Memory")),
        )
    ),
)

POD_FAILURE = fields(
    "rules",
    rules=some(
        fields(
            "action",
            "onExitCodes onPodConditions",
            action=one_of("FailJob", "FailIndex", "Ignore", "Count"),
            onExitCodes=fields(
                "operator values",
                "containerName",
                operator=one_of("In", "NotIn"),
                values=some(COUNT),
                containerName=NAME,
            ),
            onPodConditions=some(
                fields("type status", type=TEXT, status=one_of("True", "False", "Unknown"))
            ),
        )
    ),
)

JOB = fields(
    "parallelism completions completionMode backoffLimit template",
    "podFailurePolicy",
    parallelism=COUNT,
    completions=COUNT,
    completionMode=one_of("Indexed"),
    backoffLimit=COUNT,
    podFailurePolicy=POD_FAILURE,
    template=fields("spec", spec=POD),
)

RULE = fields(
    "name action",
    "onJobFailureReasons",
    name={"type": "string", "pattern": r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action=one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
    onJobFailureReasons=some(
        one_of("BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy")
    ),
)

JOBSET = fields(
    "apiVersion kind metadata spec",
    apiVersion=one_of("jobset.x-k8s.io/v1alpha2"),
    kind=one_of("JobSet"),
    metadata=METADATA,
    spec=fields(
        "replicatedJobs",
        "network failurePolicy",
        network=fields(
            "",
            "enableDNSHostnames publishNotReadyAddresses",
            enableDNSHostnames=FLAG,
            publishNotReadyAddresses=FLAG,
        ),
        failurePolicy=fields("maxRestarts", "rules", maxRestarts=COUNT, rules=some(RULE)),
        replicatedJobs=some(
            fields(
                "name replicas template",
                name=NAME,
                replicas=COUNT,
                template=fields("spec", spec=JOB),
            )
        ),
    ),
)

CLAIM = fields(
    "apiVersion kind metadata spec",
    apiVersion=one_of("v1"),
    kind=one_of("PersistentVolumeClaim"),
    metadata=METADATA,
    spec=fields(
        "accessModes resources",
        "storageClassName",
        accessModes=some(one_of("ReadWriteMany")),
        storageClassName=TEXT,
        resources=fields("requests", requests=AMOUNTS),
    ),
)
