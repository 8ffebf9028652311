# The demo for self-hosting: docker build -t udc-defense . && docker run --rm -p 7860:7860 udc-defense
# With a GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 ..., docker run --gpus all ...
# It starts without a network: the weights are in the image.
FROM python:3.12-slim

# torch alone, from an index that holds nothing but PyTorch's own builds: a layer that seldom changes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.13.0
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch==${TORCH_VERSION}"

# Dependencies before code, so that an edit of the code installs nothing again.
COPY pyproject.toml /tmp/
RUN python -c "import tomllib; p = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['demo'], sep='\n')" > /tmp/requirements.txt \
    && pip install --no-cache-dir -r /tmp/requirements.txt \
    && rm /tmp/pyproject.toml /tmp/requirements.txt

# The folder belongs to the user too: Gradio may write its cache there.
RUN useradd --create-home --uid 1000 user && install -d -o user -g user /home/user/app
USER user
ENV HOME=/home/user \
    HF_HOME=/home/user/.cache/huggingface \
    PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    GRADIO_SSR_MODE=False \
    HF_HUB_DISABLE_TELEMETRY=1
WORKDIR /home/user/app
COPY --chown=1000:1000 . .

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/gradio_api/startup-events', timeout=4)"]
CMD ["python", "app.py"]
