"""Explanations of the reasons that arise outside the pod: at storage, and in the control plane."""

from collections.abc import Mapping

from agent.core.reasons import Explanation, Reason

STORAGE: Mapping[Reason, Explanation] = {
    Reason.UNSUPPORTED_SCHEME: Explanation(
        "Nothing here reads URIs of this scheme.",
        "A slip in storageUri, or a scheme that no installed package knows.",
        "Correct the scheme, or install the fsspec package that knows it in the agent's image.",
    ),
    Reason.MISSING_DEPENDENCY: Explanation(
        "The package that reads this scheme is not installed.",
        "The agent's image was built without that extra.",
        "Use the full image, or install the extra that the message names.",
    ),
    Reason.NOT_FOUND: Explanation(
        "Nothing is there under the storage URI.",
        "A slip in bucket or key, the model is not uploaded yet, or listing shows only what one may see.",
        "Correct storageUri or upload the model; looked at again every 5 minutes and on each change.",
    ),
    Reason.ACCESS_DENIED: Explanation(
        "The storage knows who asks, and does not allow it.",
        "The role or key lacks read or list permission on this bucket or prefix.",
        "Grant list and get on the prefix to the identity of the pod.",
    ),
    Reason.INVALID_CREDENTIALS: Explanation(
        "The storage does not know who asks.",
        "A wrong, expired or missing key, token or service account.",
        "Correct the secret or the service account of the pod; read again with the next try.",
    ),
    Reason.CLOCK_SKEW: Explanation(
        "The storage refuses the request for its time.",
        "The clock of the node is off by minutes.",
        "Bring the node's clock right (NTP).",
    ),
    Reason.OBJECT_ARCHIVED: Explanation(
        "An object lies in an archive tier and cannot be read.",
        "A lifecycle rule moved it (Glacier and the like).",
        "Restore the object, or take the prefix out of the rule.",
    ),
    Reason.STORAGE_UNAVAILABLE: Explanation(
        "The storage cannot be reached, or answers with server errors.",
        "An outage, a network policy, DNS, or a wrong endpoint.",
        "Check the endpoint from the pod; tried again by itself, at most a minute apart.",
    ),
    Reason.STORAGE_THROTTLED: Explanation(
        "The storage asks to come back later.",
        "Too many requests from this account or address.",
        "Wait; fewer pods starting at once, or --max-concurrent-downloads, help.",
    ),
    Reason.STORAGE_TIMEOUT: Explanation(
        "No bytes came for too long.",
        "A stalled connection, a proxy, or an overloaded storage.",
        "Check the network on the way; what has come is kept, and the next try goes on from there.",
    ),
    Reason.STORAGE_ERROR: Explanation(
        "The storage gave an answer that makes no sense here.",
        "A gateway that is not quite compatible, a proxy's own page, or a wrong endpoint.",
        "Read the message; check endpoint and region.",
    ),
    Reason.TLS_ERROR: Explanation(
        "The storage's certificate is not trusted.",
        "A private CA that the agent does not know, an expired certificate, or another host's.",
        "Mount the CA bundle (AWS_CA_BUNDLE, SSL_CERT_FILE), or renew the certificate.",
    ),
    Reason.REDIRECT_REFUSED: Explanation(
        "The storage redirects to where the agent does not follow.",
        "From https to http, too many hops, or to a scheme that is no http.",
        "Name the final address in storageUri.",
    ),
    Reason.FORBIDDEN_ADDRESS: Explanation(
        "The URI leads to an address that is not allowed.",
        "A metadata service or link-local address, be it by DNS or by redirect.",
        "Use a real storage host; the operator may allow networks.",
    ),
    Reason.FORBIDDEN_PATH: Explanation(
        "The path is outside the folders that may be read.",
        "--allowed-roots does not hold it, or a link leads out of them.",
        "Move the model below an allowed root, or allow its folder.",
    ),
    Reason.FORBIDDEN_URI: Explanation(
        "The storage URI is under no prefix that the operator allows.",
        "--allow-uri does not name its prefix, or the URI has dotted segments.",
        "Move the model below an allowed prefix, or ask for its prefix to be added; what serves stays.",
    ),
    Reason.INVALID_OBJECT_KEY: Explanation(
        "An object's key cannot become a file of the model's folder.",
        "It has '..', is absolute or too long, or two keys mean one file.",
        "Rename the object; nothing of the model is used until all is well.",
    ),
    Reason.INTEGRITY_MISMATCH: Explanation(
        "The bytes are not those that the storage or the user declared.",
        "A damaged transfer, a broken proxy, or a wrong digest.",
        "Nothing to do at first: they were thrown away and are fetched again. Check the digest if it stays.",
    ),
    Reason.SIGNATURE_INVALID: Explanation(
        "The signature that the model names does not prove its files; they are not used.",
        "Files were changed after signing, it was signed with another key, or --signing-key-file is missing.",
        "Sign the model again with the right key, or give the agent its public key; what serves stays.",
    ),
    Reason.SNAPSHOT_CHANGED: Explanation(
        "The objects changed while they were being read.",
        "Somebody uploads the model at this moment.",
        "Wait for the upload to end; upload new versions under a new prefix.",
    ),
    Reason.ARCHIVE_REFUSED: Explanation(
        "The archive is damaged, or has members that are not allowed.",
        "A cut-off upload; links, devices or paths that leave the folder.",
        "Pack it again, with plain files and folders only.",
    ),
    Reason.ARCHIVE_TOO_LARGE: Explanation(
        "The archive would unpack to more than is allowed.",
        "A bomb, or a model that is larger than the limits or the volume.",
        "Give the files unpacked, or more room.",
    ),
}

CONTROL_PLANE: Mapping[Reason, Explanation] = {
    Reason.INFERENCE_SERVICE_NOT_FOUND: Explanation(
        "The TrainedModel names an InferenceService that is not there.",
        "A slip in spec.inferenceService, another namespace, or it is created later.",
        "Create it, or correct the name; looked at again on each change.",
    ),
    Reason.INFERENCE_SERVICE_NOT_READY: Explanation(
        "The InferenceService is not ready.",
        "Its pods are starting or failing.",
        "Look at its conditions and pods.",
    ),
    Reason.IS_NOT_MMS_PREDICTOR: Explanation(
        "The InferenceService's predictor does not take several models.",
        "It has a storageUri of its own, or a runtime without multiModel.",
        "Use a predictor without storageUri on a multi-model runtime.",
    ),
    Reason.MEMORY_RESOURCE_NOT_AVAILABLE: Explanation(
        "No shard has the memory that this model asks for.",
        "The predictor's memory is given to other models, or the model is larger than a pod.",
        "Enlarge the predictor's memory, remove a model, or lower this one's memory.",
    ),
    Reason.INVALID_SPEC: Explanation(
        "The TrainedModel's spec breaks a rule.",
        "It was written before the webhook was there; the message names the field.",
        "Correct the object.",
    ),
    Reason.FOREIGN_WRITER: Explanation(
        "Somebody else writes the ConfigMap of this shard.",
        "KServe's own controller runs beside this one.",
        "Run this one with --status-only; or stop the other, then start this one with --take-over.",
    ),
    Reason.NO_READY_REPLICAS: Explanation(
        "No pod of the predictor is ready, so that nobody can say what is loaded.",
        "It is scaled to nought, starting or failing.",
        "Scale it up, or look at its pods.",
    ),
    Reason.AGENT_UNREACHABLE: Explanation(
        "A pod's agent does not answer on its status port.",
        "A network policy, an older pod without the agent, or a pod that is starting.",
        "Allow the controller to port 9082 of the pods; look at the pod that the message names.",
    ),
    Reason.CONFIG_PENDING: Explanation(
        "The ConfigMap is written, and the pods have not seen it yet.",
        "The kubelet brings a change within about a minute.",
        "Wait.",
    ),
    Reason.LOADED: Explanation(
        "Every ready pod serves the model.",
        "All went well.",
        "Nothing.",
    ),
    Reason.API_UNAVAILABLE: Explanation(
        "The API server does not answer.",
        "It restarts, is overloaded, or the network is down.",
        "Look at the cluster; tried again by itself.",
    ),
    Reason.API_CONFLICT: Explanation(
        "An object was changed by somebody else at the same time.",
        "Two writers.",
        "Nothing: it is read and written again.",
    ),
    Reason.API_REJECTED: Explanation(
        "The API server refused a request.",
        "Rights are missing, or another webhook denies it.",
        "Compare the RBAC manifests with what is installed; read the message.",
    ),
    Reason.API_NOT_FOUND: Explanation(
        "An object is gone that was there before.",
        "It was deleted meanwhile, or its CRD is not installed.",
        "Install the CRD if it is missing; else nothing.",
    ),
    Reason.API_EXPIRED: Explanation(
        "The API server forgot where a watch stood.",
        "The watch was away for too long.",
        "Nothing: everything is listed again.",
    ),
}
