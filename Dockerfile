# syntax=docker/dockerfile:1

# --- Build

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# What librdkafka, jemalloc and zstd are built with (`scripts/install build`).
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential cmake pkg-config libssl-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
COPY . .
# The registry and the target folder are caches of the builder and not part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin omnilink \
 && install -m 0755 target/release/omnilink /usr/local/bin/omnilink

# --- Run

FROM debian:bookworm-slim
# What the binary links to, and the certificates of authorities for outgoing TLS.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 omnilink \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/omnilink --shell /usr/sbin/nologin omnilink \
 && install -d -o omnilink -g omnilink -m 0700 /var/lib/omnilink \
 && install -d -m 0755 /etc/omnilink
COPY --from=build /usr/local/bin/omnilink /usr/local/bin/omnilink
COPY --chmod=0755 deploy/healthcheck /usr/local/bin/omnilink-healthcheck
# `omnilink.yaml` is read from here, with the folders beside it.
WORKDIR /etc/omnilink
ENV OMNILINK__DATA_DIR=/var/lib/omnilink
USER 10001:10001
VOLUME /var/lib/omnilink
EXPOSE 7700
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["omnilink-healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["omnilink"]
CMD ["up"]
