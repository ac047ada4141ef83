# `make demo` shows it, `make test` proves it; both install what is missing. The work is done by scripts/.
.DEFAULT_GOAL := help
.PHONY: help demo test build vet lint api fmt clean

# Arguments for the demo: make demo ARGS="--script kill-node --json".
ARGS ?=

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

demo: ## run a cluster of three nodes on this machine and watch it fail over (ARGS=...)
	@scripts/demo $(ARGS)

test: ## run vet, lint and every test with the race detector, as CI does
	@scripts/test

build: ## build bin/pghad and bin/pghad-guard
	go build -o bin/pghad ./cmd/pghad
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/pghad-guard ./cmd/pghad-guard

vet: ## run go vet
	go vet ./...

lint: ## run golangci-lint in the pinned version
	@scripts/lint

fmt: ## format all Go files
	@scripts/lint --fmt

api: ## write testdata/api.txt anew after a deliberate change of the public API
	go test ./internal/repo -run TestAPI -count=1 -update

clean: ## remove what was built
	rm -rf bin .cache
