# syntax=docker/dockerfile:1

# replicate-mcp over HTTP: docker build -t replicate-mcp . && docker run -p 127.0.0.1:8000:8000 replicate-mcp
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/image.lock deploy/image-build.lock ./
RUN python -m venv --without-pip /opt/replicate-mcp \
    && pip --python /opt/replicate-mcp/bin/python install --require-hashes --only-binary :all: -r image.lock \
    && pip install --require-hashes --only-binary :all: -r image-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/replicate-mcp/bin/python install --no-deps --no-index dist/*.whl

FROM python:${PYTHON}-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="replicate-mcp" \
      org.opencontainers.image.description="An MCP server that turns a list of prompts into a list of image URLs through Replicate" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/replicate-mcp replicate-mcp
COPY --from=build /opt/replicate-mcp /opt/replicate-mcp
ENV PATH="/opt/replicate-mcp/bin:${PATH}" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# By its number, so that Kubernetes can tell that it is not root.
USER 10001
WORKDIR /var/lib/replicate-mcp
# Where the state lives that is shared through SQLite; with Redis, nothing is written.
VOLUME /var/lib/replicate-mcp
# What is published does not come from loopback: callers bring a token or the key that is set as
# REPLICATE_MCP_ADMIN_API_KEY, unless REPLICATE_MCP_ALLOW_ANONYMOUS=1 gives the server's token to whoever
# can connect.
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --start-interval=2s CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=8); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["replicate-mcp"]
CMD ["serve", "--http", "--host", "0.0.0.0", "--port", "8000"]
