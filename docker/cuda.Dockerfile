# The package with vLLM for NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t aer-lightning:cuda .
#   docker run --rm --gpus all --ipc host -v "$PWD/runs:/app/runs" aer-lightning:cuda fit -c configs/aer.yaml
# --ipc host: weights go from the trainer to vLLM through shared memory. torch and vLLM bring CUDA's libraries; Triton needs a compiler.
FROM nvidia/cuda:12.9.1-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HOME=/app/.cache/huggingface
RUN python3 -m venv "$VIRTUAL_ENV"

WORKDIR /opt/aer-lightning
COPY requirements/cuda.txt requirements/cuda.txt
RUN pip install torch==2.13.0 \
    && pip install -r requirements/cuda.txt

COPY . .
RUN pip install --no-deps . \
    && useradd --create-home aer \
    && install --directory --owner aer /app

USER aer
WORKDIR /app
ENTRYPOINT ["aer-lightning"]
CMD ["--help"]
