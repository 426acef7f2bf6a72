# Echoic in a container. Conversations are stored in the volume /data unless DATABASE_URL is set.
#
# Without authentication the server refuses to listen beyond loopback, which in a container nothing
# can reach. Set ECHOIC_ALLOW_UNAUTHENTICATED=true if only trusted clients reach the published port:
#
#   docker build --tag echoic .
#   docker run --env ECHOIC_ALLOW_UNAUTHENTICATED=true --publish 127.0.0.1:8080:8080 --volume echoic:/data echoic

FROM rust:1.95-trixie AS build
WORKDIR /build
# Build the dependencies alone, with a placeholder program: this layer is rebuilt only when one of
# these files changes. .cargo configures how SQLite is compiled. rust-toolchain.toml is not copied,
# since rustup would then download another toolchain than the image's.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs && cargo build --release --locked
COPY src src
COPY prompts prompts
COPY web web
# Cargo compares modification times: sources older than the placeholders would count as built.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

FROM debian:trixie-slim
# Root certificates for TLS connections to providers and databases.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10001 --group=10001 /data
COPY deploy/ready.sh /usr/local/bin/echoic-ready
COPY --from=build /build/target/release/echoic /usr/local/bin/echoic
ENV HOST=0.0.0.0 PORT=8080 DATABASE_URL=sqlite:///data/echoic.db
USER 10001:10001
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["bash", "/usr/local/bin/echoic-ready"]
ENTRYPOINT ["echoic"]
