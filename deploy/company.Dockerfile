# An image with your company's folder in it: knowledge, policy and models. Kubernetes runs it; compose mounts the folder.
#
#   docker build -f deploy/company.Dockerfile -t headgate-company examples/fernway
#   docker build -f deploy/company.Dockerfile -t headgate-company-vllm --build-arg BASE=headgate-vllm FOLDER
#
# Models from the store come into the folder first: headgate model pull router VERSION --out FOLDER/router
ARG BASE=headgate
FROM $BASE
COPY . /company
