"""A KServe ModelServer like its sklearnserver: run by the kserve environment's own Python, not by ours.

    python kserve_app.py MODEL_DIR PORT [load|no-load]

It loads every folder of MODEL_DIR at its start, hidden ones too, and ends if one is bad. With `no-load`
its repository is the base class, whose load does nothing.
"""

import sys
from pathlib import Path

import joblib
import uvicorn
from kserve import InferOutput, InferResponse, Model, ModelRepository, ModelServer
from kserve.errors import ModelMissingError


class LoopbackConfig(uvicorn.Config):
    """KServe binds all interfaces and takes no flag for it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "host": "127.0.0.1"})


class JoblibModel(Model):
    def __init__(self, name, folder):
        super().__init__(name)
        self._folder = folder
        self._model = None

    def load(self):
        path = self._folder / "model.joblib"
        if not path.exists():
            raise ModelMissingError(path)
        self._model = joblib.load(path)
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None):
        answer = self._model.predict(payload.inputs[0].as_numpy()).astype("int64")
        output = InferOutput("answer", list(answer.shape), "INT64", data=answer.tolist())
        return InferResponse(response_id="1", model_name=self.name, infer_outputs=[output])


class FolderRepository(ModelRepository):
    def __init__(self, models_dir):
        super().__init__(models_dir)
        self.load_models()

    def load(self, name):
        return self.load_model(name)

    def load_model(self, name):
        model = JoblibModel(name, Path(self.models_dir) / name)
        if model.load():
            self.update(model)
        return model.ready


def main():
    model_dir, port, kind = (*sys.argv[1:], "load")[:3]
    sys.argv = sys.argv[:1]
    uvicorn.Config = LoopbackConfig
    repository = FolderRepository(model_dir) if kind == "load" else ModelRepository(model_dir)
    ModelServer(http_port=int(port), enable_grpc=False, registered_models=repository).start([])


if __name__ == "__main__":
    main()
