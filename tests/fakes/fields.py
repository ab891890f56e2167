"""Field ownership of server-side apply, as much of it as the fake API server needs."""

import copy


def own(obj, manager, operation, subresource, time="2026-01-01T00:00:00Z"):
    fields = {"f:data": {f"f:{name}": {} for name in obj.get("data", {})}}
    entries = [
        e
        for e in obj["metadata"].get("managedFields", [])
        if (e["manager"], e.get("subresource", "")) != (manager, subresource or "")
    ]
    if operation == "Apply":  # forced: nobody else owns these any more
        for entry in entries:
            entry["fieldsV1"] = {
                "f:data": {n: {} for n in entry["fieldsV1"]["f:data"] if n not in fields["f:data"]}
            }
    obj["metadata"]["managedFields"] = [
        *entries,
        {
            "manager": manager,
            "operation": operation,
            "fieldsV1": fields,
            "subresource": subresource or "",
            "time": time,
        },
    ]


def merge(target, patch):
    merged = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value) if isinstance(value, dict) else value
    return merged


def _keyed(path, value):
    """Return the merge key of a list of maps, None where the list is one value."""
    return (
        {"conditions": "type", "ownerReferences": "uid"}.get(path[-1])
        if path and isinstance(value, list)
        else None
    )


def leaves(value, path=()):
    by = _keyed(path, value)
    if by:
        return {leaf for item in value for leaf in leaves(item, (*path, (by, item[by])))} | {
            (*path, (by, item[by])) for item in value
        }
    if isinstance(value, dict):
        return {leaf for key, item in value.items() for leaf in leaves(item, (*path, key))}
    return {path}


def remove(obj, path):
    for step in path[:-1]:
        obj = (
            next((i for i in obj if i[step[0]] == step[1]), None)
            if isinstance(step, tuple)
            else obj.get(step)
        )
        if obj is None:
            return
    last = path[-1]
    if isinstance(last, tuple):
        obj[:] = [item for item in obj if item[last[0]] != last[1]]
    else:
        obj.pop(last, None)


def overlay(target, body, path=()):
    for key, value in body.items():
        by = _keyed((*path, key), value)
        if by:
            listed = target.setdefault(key, [])
            for item in value:
                there = next((other for other in listed if other[by] == item[by]), None)
                if there is None:
                    listed.append(copy.deepcopy(item))
                else:
                    overlay(there, item, (*path, key, by))
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            overlay(target[key], value, (*path, key))
        else:
            target[key] = copy.deepcopy(value)
