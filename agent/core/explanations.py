"""What each reason means, what usually causes it, and what an operator can do; a test finds one left out.

The page, the terminal, the README's table and the alerts' texts are all made from here.
"""

from collections.abc import Mapping

from agent.core.explanations_outside import CONTROL_PLANE, STORAGE
from agent.core.reasons import Explanation, Reason

DOCUMENT: Mapping[Reason, Explanation] = {
    Reason.CONFIG_MISSING: Explanation(
        "There is no models.json where it is looked for.",
        "The ConfigMap is not mounted there, has no key models.json, or is not written yet.",
        "Mount it at --config-dir; what was accepted last stays in force until then.",
    ),
    Reason.CONFIG_UNREADABLE: Explanation(
        "models.json is there but cannot be read.",
        "Permissions of the mount, or something there that is no regular file.",
        "Make it a plain file that the agent's user may read.",
    ),
    Reason.CONFIG_REJECTED: Explanation(
        "The document as a whole is refused; nothing of it applies.",
        "It is cut off, is no JSON, or is no list of models; the message tells line and column.",
        "Correct it; what was accepted last stays in force.",
    ),
    Reason.CONFIG_TOO_LARGE: Explanation(
        "The document has more than 2 MiB (a ConfigMap holds 1 MiB), or more models or nesting than is read.",
        "A wrong file is mounted, or one pod is given too many models.",
        "Mount the right file, or spread the models over more pods.",
    ),
    Reason.CONFIG_MOUNT_STATIC: Explanation(
        "Changes of the ConfigMap will never reach this pod.",
        "models.json is mounted by subPath, which the kubelet does not update.",
        "Mount the whole ConfigMap as a folder.",
    ),
    Reason.TOO_MANY_REMOVALS: Explanation(
        "The document would remove more models at once than --max-removal allows.",
        "A faulty generator, or a large removal that is meant.",
        "Put the models back, or remove them in steps; or raise --max-removal.",
    ),
    Reason.INVALID_NAME: Explanation(
        "The entry's name is none that a model can have.",
        "Other characters than letters, digits, '_', '.', '-'; a leading dot; over 253 of them; none at all.",
        "Rename the model; other entries apply, and nothing is removed while a name cannot be read.",
    ),
    Reason.INVALID_ENTRY: Explanation(
        "The entry has a field of the wrong type, or misses one.",
        "A slip in models.json; the message names the field.",
        "Correct the entry; what serves under its name stays.",
    ),
    Reason.INVALID_STORAGE_URI: Explanation(
        "The storage URI cannot be understood.",
        "No scheme, no bucket or host, or characters that have to be escaped.",
        "Correct storageUri; the message tells what is wrong with it.",
    ),
    Reason.INVALID_MEMORY: Explanation(
        "The entry's memory is no quantity.",
        "Something other than a number with a unit such as 512Mi or 2Gi; or a negative one.",
        "Write memory as Kubernetes does, such as 512Mi or 2Gi; what serves under the name stays until then.",
    ),
    Reason.DUPLICATE_NAME: Explanation(
        "Two entries have the same name and ask for different things.",
        "models.json was put together from two sources.",
        "Keep one of them; what serves under the name stays until then.",
    ),
}

DISK: Mapping[Reason, Explanation] = {
    Reason.DISK_FULL: Explanation(
        "The volume has no room for the download.",
        "More or larger models than the volume holds; others may use it too.",
        "Enlarge the volume or its sizeLimit, or remove models; tried again by itself.",
    ),
    Reason.DISK_BUDGET_EXCEEDED: Explanation(
        "The download would take the store over --disk-budget.",
        "More or larger models than the budget holds; the kubelet evicts a pod that fills an emptyDir.",
        "Raise --disk-budget and the volume's sizeLimit, or remove models; tried again by itself.",
    ),
    Reason.DISK_ERROR: Explanation(
        "The volume answered with an error, or files of the store are not as they were left.",
        "A failing disk or network volume, or somebody else writing to the store.",
        "Look at the node's kernel log; what is damaged is fetched again.",
    ),
    Reason.READ_ONLY_VOLUME: Explanation(
        "The model volume cannot be written.",
        "It is mounted read-only, or the kernel made it so after errors.",
        "Mount it writable for the agent; look at the node if it was.",
    ),
    Reason.RESOURCE_EXHAUSTED: Explanation(
        "The process has no file descriptors, threads or memory left for this step.",
        "Limits of the container are low for so many downloads at once.",
        "Raise the limit that the message names, or lower --max-concurrent-downloads.",
    ),
    Reason.CANNOT_REMOVE: Explanation(
        "A folder that is no longer needed cannot be removed.",
        "The model server, under another user id, wrote files that the agent may not delete.",
        "Give both the same fsGroup or user; it takes up room, but nothing serves from it.",
    ),
    Reason.STORE_IN_USE: Explanation(
        "Another process works on this store.",
        "Two agents share one volume, or the one before has not ended yet.",
        "Give each agent a volume of its own.",
    ),
}

SERVER: Mapping[Reason, Explanation] = {
    Reason.SERVER_UNAVAILABLE: Explanation(
        "The model server did not take the call.",
        "It is starting, restarting or overloaded, or --server-url is wrong.",
        "Look at the server's log; tried again by itself.",
    ),
    Reason.SERVER_CRASHED: Explanation(
        "The model server died while it loaded this model.",
        "The model needs more memory than the container has, or breaks the server.",
        "Look at the server's log for OOMKilled; give memory, or correct the model. After three deaths it is "
        "held back for minutes, so that the others serve.",
    ),
    Reason.LOAD_REJECTED: Explanation(
        "The model server refused to load the model.",
        "Wrong files for the framework, another library's version, or a missing settings file.",
        "Read the server's words in the message and in its log, and correct the model or its framework; "
        "what served before still does.",
    ),
    Reason.LOAD_NOT_SUPPORTED: Explanation(
        "The model server has no way to load models while it runs.",
        "Its repository extension is switched off (Triton: --model-control-mode=explicit).",
        "Switch it on, or use a server that has one.",
    ),
    Reason.LOAD_TIMEOUT: Explanation(
        "The server did not confirm the load in time.",
        "A large model, a slow disk, or a server that hangs.",
        "Raise --load-timeout if it only needs longer, else look at the server.",
    ),
    Reason.UNLOAD_FAILED: Explanation(
        "The server did not confirm that it let the model go.",
        "It is busy, or its repository extension failed.",
        "Look at the server's log; its memory counts as used until it confirms.",
    ),
}

PLANNING: Mapping[Reason, Explanation] = {
    Reason.QUEUED: Explanation(
        "The model is next in line.",
        "All slots for downloads or loads are taken by others.",
        "Wait; --max-concurrent-downloads sets how many are downloaded at once.",
    ),
    Reason.DOWNLOADING: Explanation(
        "The model's files are on their way to the disk.",
        "It is new, or its bytes have changed.",
        "Wait; the progress tells how long.",
    ),
    Reason.LOADING: Explanation(
        "The server was asked to load the model.",
        "Its files are complete and verified.",
        "Wait, at most --load-timeout.",
    ),
    Reason.UNLOADING: Explanation(
        "The model is being taken down.",
        "It is no longer in models.json.",
        "Wait; its memory is free once the server confirms.",
    ),
    Reason.UPDATING: Explanation(
        "The model steps aside for its own next revision.",
        "--update-policy=resource, and old and new do not fit in memory together.",
        "Wait; the old one comes back if the new one fails.",
    ),
    Reason.WAITING_FOR_SERVER: Explanation(
        "The model is on disk, and the server is not ready for work.",
        "The model server is starting or does not answer.",
        "Look at the server; nothing is downloaded again.",
    ),
    Reason.MEMORY_BUDGET_EXCEEDED: Explanation(
        "The model waits until others leave it room.",
        "All models together need more memory than the budget.",
        "Raise --memory-budget, remove a model, or lower a model's memory; after 10 minutes the next room "
        "that gets free is kept for it.",
    ),
    Reason.EXCEEDS_MEMORY_BUDGET: Explanation(
        "The model alone needs more than the whole budget.",
        "Its memory is wrong, or the pod is too small for it.",
        "Lower its memory, raise --memory-budget, or give it a larger pod.",
    ),
    Reason.OVER_COMMITTED: Explanation(
        "The model serves, but no longer fits the budget.",
        "The budget was lowered, or the memory of a model was raised.",
        "Raise the budget or remove a model; what serves is never evicted.",
    ),
    Reason.UPDATE_NEEDS_ROOM: Explanation(
        "The new revision is on disk, and there is no room to load it beside the old one.",
        "An update holds both in memory for a moment.",
        "Free memory, or set --update-policy=resource to take the old one down first.",
    ),
    Reason.INTERNAL_ERROR: Explanation(
        "A fault in the agent itself ended the step.",
        "A bug.",
        "Report it with the traceback of the log; it is tried again, and other models go on.",
    ),
}

EXPLANATIONS: Mapping[Reason, Explanation] = {
    **DOCUMENT,
    **STORAGE,
    **DISK,
    **SERVER,
    **PLANNING,
    **CONTROL_PLANE,
}
"""One entry for every reason, in the order of the README's table."""
