# Builds quantd and quantctl, and puts them with the libraries that they need on a slim Debian.
FROM debian:bookworm-slim AS build
WORKDIR /src
COPY deploy/apt-packages.txt deploy/install-packages.sh deploy/
RUN deploy/install-packages.sh && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DQUANTD_BUILD_TESTS=OFF \
    && cmake --build --preset release --target quantd quantctl \
    && mkdir /out \
    && cp build/server/quantd build/client/quantctl /out/ \
    && strip /out/quantd /out/quantctl
# The Debian packages that own the shared libraries of both programs.
RUN ldd /out/quantd /out/quantctl | awk '$2 == "=>" {print $3}' | sort -u | xargs realpath \
    | xargs dpkg -S | cut -d: -f1 | sort -u > /out/runtime-packages.txt

FROM debian:bookworm-slim
COPY --from=build /out/ /opt/quantd/
RUN apt-get update \
    && xargs -a /opt/quantd/runtime-packages.txt apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s /opt/quantd/quantd /opt/quantd/quantctl /usr/local/bin/ \
    && useradd --system --no-create-home --shell /usr/sbin/nologin quantd
USER quantd
ENV QUANTD_LISTEN=127.0.0.1:7717
EXPOSE 7717
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s \
    CMD ["quantctl", "--server", "127.0.0.1:7717", "info", "--health"]
ENTRYPOINT ["quantd"]
