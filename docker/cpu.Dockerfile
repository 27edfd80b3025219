# Temper on CPU: vLLM, Ray, DeepSpeed and the verifiers' tools, from the same pins as `make`. Not built so far: docs/status.md.
#   docker build -f docker/cpu.Dockerfile -t temper:cpu .
#   docker run --rm -it --security-opt seccomp=unconfined --security-opt systempaths=unconfined -v temper-runs:/temper/runs temper:cpu train experiment=quickstart
# The two options let bubblewrap make its namespaces inside the container; without them choose reward=unsafe.
FROM python:3.11.13-slim-bookworm AS build

# hadolint ignore=DL3008 # the release of the base image fixes the versions
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/temper
ENV PATH=/opt/temper/bin:$PATH

WORKDIR /source
# The dependencies change less often than the code: their layer is kept.
COPY pyproject.toml constraints-cpu.txt README.md LICENSE ./
RUN pip install --no-cache-dir -c constraints-cpu.txt --extra-index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --no-cache-dir -c constraints-cpu.txt '.[cpu]' \
    && pip uninstall -y temper-rl
COPY rollout rollout
COPY learner learner
COPY reward reward
COPY orchestration orchestration
COPY conf conf
RUN pip install --no-cache-dir --no-deps .

FROM python:3.11.13-slim-bookworm

# g++: DeepSpeed and torch compile operators when they are first used.
# hadolint ignore=DL3008 # the release of the base image fixes the versions
RUN apt-get update \
    && apt-get install -y --no-install-recommends iverilog bubblewrap yosys g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home temper \
    && install -d -o temper -g temper /temper /temper/runs
COPY --from=build /opt/temper /opt/temper
ENV PATH=/opt/temper/bin:$PATH OMP_NUM_THREADS=1

USER 1000:1000
WORKDIR /temper
VOLUME /temper/runs
# The Ray that this container is a node of, its own one or a cluster's.
HEALTHCHECK --interval=30s --timeout=20s --start-period=180s --retries=3 CMD ["ray", "health-check"]
ENTRYPOINT ["temper"]
CMD ["doctor"]
