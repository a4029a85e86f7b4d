# Patchbay. `make help` lists what there is.
# Everything that is downloaded or built for the lab is kept in one folder, PATCHBAY_CACHE (default: ~/.cache/patchbay).

export PATCHBAY_CACHE ?= $(HOME)/.cache/patchbay
LAB = scripts/lab

.PHONY: help demo test check book fuzz sbom packages unit images lab-parts scenarios bench bench-agent fleet plot lab-up lab-down fmt

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a real cluster comes up, a stick is plugged in, and a VM on another node reads it
	@$(LAB) demo

test: ## everything: checks, unit and property tests, exploration, and the scenarios on real nodes
	@scripts/test

check: ## formatting, lints, and fuzzing for a moment: no cluster needed
	@scripts/check

book: ## the documentation as a book in target/book
	@scripts/book

fuzz: ## every fuzz target for a moment; ONLY="link_answer -max_total_time=600" runs one for longer
	@scripts/fuzz $(ONLY)

sbom: ## what the programs are made of: CycloneDX files in target/sbom
	@scripts/sbom

packages: ## installs what tests and lab need from this machine's distribution
	@$(LAB) packages

unit: packages ## unit and property tests and exploration: no cluster needed
	@cargo test --quiet --workspace

images: packages ## writes images for any cluster to target/images, as OCI archives
	@$(LAB) images target/images

lab-parts: ## builds and caches what the lab is made of
	@$(LAB) parts

scenarios: ## the scenarios on real nodes; ONLY="words" runs those whose name contains one
	@$(LAB) test $(ONLY)

bench: ## measures attach, detach, discovery and moves beside the stock tools; prints a table, writes JSON
	@$(LAB) bench

bench-agent: ## measures the agent by itself: memory, idle CPU, start, storms of the kernel's messages
	@$(LAB) bench-agent

fleet: ## measures the control plane of 1000 nodes; ONLY="--nodes 20 --machines 20 --attachments 40 --lost 5 --burst 10" is a small one
	@$(LAB) fleet $(ONLY)

plot: ## draws what was measured: the pictures and tables of docs/measured.md
	@$(LAB) plot

lab-up: ## starts the lab and leaves it running; prints how to use it
	@$(LAB) up

lab-down: ## stops it
	@$(LAB) down

fmt: ## formats the code
	@cargo fmt --all
