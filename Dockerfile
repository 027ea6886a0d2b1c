# Builds quantd and quantctl, and puts them with the libraries that they need on a slim Debian.
#   docker build -t quantd .
#   docker run --rm -p 7717:7717 quantd --listen 0.0.0.0:7717 --insecure --listen unix:/run/quantd/quantd.sock
# Health is asked by $QUANTD_SERVER: keep that socket among what the server listens on.
FROM debian:bookworm-slim AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
COPY deploy/apt-packages.txt deploy/install-packages.sh deploy/
RUN deploy/install-packages.sh && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DQUANTD_BUILD_TESTS=OFF -DBUILD_SHARED_LIBS=ON -DCMAKE_SKIP_RPATH=ON \
    && cmake --build --preset release --target quantd quantctl \
    && deploy/stage-image.sh build /out

FROM debian:bookworm-slim
COPY --from=build /out/runtime-packages.txt /usr/share/quantd/
# The packages hold libraries beside those that are used; dpkg leaves the large ones out.
RUN printf 'path-exclude=/usr/lib/*/%s\n' \
        'libgrpc_unsecure.*' 'libgrpc++_unsecure.*' 'libgrpcpp_channelz.*' \
        'libgrpc_plugin_support.*' 'libprotoc.*' 'libhwy_contrib.*' > /etc/dpkg/dpkg.cfg.d/quantd \
    && apt-get update \
    && xargs -a /usr/share/quantd/runtime-packages.txt \
        apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/lib/dpkg/*-old \
        /var/log/apt /var/log/dpkg.log \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin quantd \
    && install -d -o quantd -g quantd /run/quantd
COPY --from=build /out/bin/ /usr/local/bin/
COPY --from=build /out/lib/ /usr/local/lib/
RUN ldconfig
USER 10001:10001
# `docker stop` kills after 10 s and Kubernetes after 30: running calls have to end before.
ENV QUANTD_LISTEN=127.0.0.1:7717,unix:/run/quantd/quantd.sock \
    QUANTD_SERVER=unix:/run/quantd/quantd.sock \
    QUANTD_DRAIN=8
# The one folder that is written, so that all else can be --read-only.
VOLUME /run/quantd
EXPOSE 7717
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["quantctl", "info", "--health"]
ENTRYPOINT ["quantd"]
