# Every habit of the project is one target. PYTHON is the interpreter of an environment in which the extras are
# installed: pip install -e '.[test,lint,types]'.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
CC ?= cc
FUZZ_SECONDS ?= 60
BENCH_JSON ?= bench/results/latest.json
BENCH_ARGS ?=
BASE ?=
PYTEST_ARGS ?=
PYTHONS ?= 3.11 3.12 3.13

RUFF = $(PYTHON) -m ruff
MYPY = $(PYTHON) -m mypy
PYTEST = $(PYTHON) -m pytest $(PYTEST_ARGS)
# cython-lint calls pycodestyle by its name.
ifneq ($(dir $(PYTHON)),./)
export PATH := $(abspath $(dir $(PYTHON))):$(PATH)
endif
CYTHON_SOURCES = $(wildcard $(foreach depth,fastsmtp fastsmtp/* fastsmtp/*/*,$(depth)/*.pyx $(depth)/*.pxd))

# A module that a running process has mapped must not be written over: each mode is built in a folder of its own,
# and the result is moved into place, so that such a process keeps the file it has. A compiled module hides the .py
# beside it, so one whose source is compiled no longer (neither a .pyx nor a .pxd is there) is removed.
define compile
	$(PYTHON) setup.py -q build_ext --build-lib build/lib-$(1) --build-temp build/temp-$(1)
	for built in $$(find build/lib-$(1)/fastsmtp fastsmtp -name '*.so'); do \
		file=$${built#build/lib-$(1)/}; source=$${file%%.*}; \
		if [ ! -e "$$source.pyx" ] && [ ! -e "$$source.pxd" ]; then rm -f "$$built"; \
		elif [ "$$built" != "$$file" ]; then \
			cp "$$built" "$$built.new" && mv -f "$$built.new" "$$file" || exit 1; \
		fi; \
	done
endef

.PHONY: help build debug sanitize test cov fuzz lint format types stubs check bench bench-check bench-record bench-peers bench-durable bench-handoff bench-workers bench-ladders bench-publish docs site dist clean

help:
	@echo "build debug sanitize - test cov fuzz - lint types stubs - check - docs site dist clean"
	@echo "bench bench-check bench-record - bench-peers bench-durable bench-handoff bench-workers bench-ladders bench-publish"

build:
	$(call compile,release)

debug: export FASTSMTP_DEBUG = 1
debug:
	$(call compile,debug)

# What builds packages is left out: a compiler under ASan's runtime tells us nothing about our own code.
sanitize:
	$(MAKE) sanitized-modules
	status=0; \
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	UBSAN_OPTIONS=print_stacktrace=1 \
	$(PYTEST) -p no:cacheprovider -m "not slow and not nightly" || status=$$?; \
	$(MAKE) build && exit $$status

.PHONY: sanitized-modules
sanitized-modules: export FASTSMTP_SANITIZE = 1
sanitized-modules:
	$(call compile,sanitize)

test:
	$(PYTEST)

cov:
	$(MAKE) traced-modules
	status=0; \
	$(PYTHON) -m coverage run -m pytest -n 0 $(PYTEST_ARGS) -m "not slow and not nightly" || status=$$?; \
	$(PYTHON) -m coverage report && $(PYTHON) -m coverage html -q -d build/coverage || status=$$?; \
	find fastsmtp -name '*.c' -delete; \
	$(MAKE) build && exit $$status

.PHONY: traced-modules
traced-modules: export FASTSMTP_COVERAGE = 1
traced-modules:
	$(call compile,coverage)

# By Atheris (the extra `fuzz`) with modules that clang has instrumented where both are there, and the runtime of clang's
# sanitizers (on Debian a package of its own), else on random inputs with those of `make build`. What is found, and what
# is kept, lies in tests/fuzz/work.
INSTRUMENT = address,undefined,fuzzer-no-link
fuzz: build
	if $(PYTHON) -c "import atheris" 2>/dev/null && \
		echo "int x;" | clang -shared -fPIC -fsanitize=$(INSTRUMENT) -x c - -o /dev/null 2>/dev/null; then \
		$(MAKE) instrumented-package && \
		$(PYTHON) tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --modules build/lib-fuzz; \
	else \
		$(PYTHON) tests/fuzz/run.py --seconds $(FUZZ_SECONDS); \
	fi

# The package lies whole in a folder of its own, so that nothing else ever loads these modules.
.PHONY: instrumented-package
instrumented-package: export FASTSMTP_SANITIZE = $(INSTRUMENT)
instrumented-package: export CC = clang
instrumented-package:
	rm -f build/lib-fuzz/fastsmtp/*.p*
	$(PYTHON) setup.py -q build --build-lib build/lib-fuzz --build-temp build/temp-fuzz

lint:
	$(RUFF) check .
	$(RUFF) format --check .
	$(PYTHON) -m cython_lint.cython_lint $(CYTHON_SOURCES)
	$(PYTHON) -m codespell_lib

format:
	$(RUFF) check --fix .
	$(RUFF) format .

# Both read tests/typing, where what is wrong must be an error to each.
types:
	$(MYPY)
	$(PYTHON) -m pyright

stubs:
	$(PYTHON) -m mypy.stubtest --allowlist tests/typing/stubtest_allowlist.txt --ignore-unused-allowlist \
		fastsmtp._parser fastsmtp._wire.grammar fastsmtp._wire.proxy_header fastsmtp._net.epoll_transport fastsmtp._native fastsmtp._hooks.coroutine_driver \
		fastsmtp._tls.records fastsmtp._net.turns fastsmtp.delivery.maildir._commit fastsmtp.delivery.relay._lines \
		fastsmtp._counts.tally

check: lint types stubs test

bench: build
	@mkdir -p $(dir $(BENCH_JSON))
	$(PYTHON) -m pytest bench $(PYTEST_ARGS) -o 'python_files=bench_*.py test_*.py' \
		--benchmark-only --benchmark-json=$(BENCH_JSON)

# Is the working tree slower than BASE, the last tag or the merge base with main? Both are built and measured in turn;
# BENCH_ARGS="--tolerance=15% --only=times".
bench-check:
	$(PYTHON) bench check $(if $(BASE),--base=$(BASE)) $(BENCH_ARGS)

# Instructions of the working tree, kept for bench-check on the same build.
bench-record:
	$(PYTHON) bench record

# CPU time per message beside other servers; BENCH_ARGS="--profile keep --rounds 9". The chart needs the extra `bench`.
bench-peers: build
	$(PYTHON) bench peers $(BENCH_ARGS)
	$(PYTHON) bench chart

# Messages per second and CPU time of servers that sync each message before its 250, beside Postfix, which needs root.
bench-durable: build
	$(PYTHON) bench durable $(BENCH_ARGS)
	$(PYTHON) bench durable-chart

# CPU time of a gateway that hands mail over to another machine before its 250, beside the engine alone.
bench-handoff: build
	$(PYTHON) bench handoff $(BENCH_ARGS)

# Several processes against one: messages per second, CPU time, memory, the gap of a reload.
bench-workers: build
	$(PYTHON) bench workers $(BENCH_ARGS)

# Memory, cost and latency beside many connections, hostile input, imports; BENCH_ARGS="--only memory,slices".
bench-ladders: build
	$(PYTHON) bench ladders $(BENCH_ARGS)

# What `make bench-peers` has found becomes what README shows.
bench-publish:
	$(PYTHON) bench chart --publish

# The documentation site; a page that no other leads to, and a link to nowhere, fail.
site:
	$(PYTHON) -m sphinx -W --keep-going -q -b html docs build/site
	$(PYTHON) docs/check_links.py build/site

# Pages and drawings that are made by programs.
docs:
	$(PYTHON) docs/make_options.py
	$(PYTHON) docs/make_server_options.py
	$(PYTHON) docs/make_diagrams.py
	$(PYTHON) docs/make_faults.py
	$(PYTHON) deploy/make_dashboard.py
	$(PYTHON) docs/make_man.py
	$(PYTHON) docs/make_cli.py
	$(PYTHON) -m fastsmtp config --example > docs/fastsmtp.toml
	[ ! -e tests/project/test_examples.py ] || $(PYTEST) -q tests/project/test_examples.py

# The sdist, and from it a wheel for each of PYTHONS, repaired, and tested in an empty environment (the extra `dist`).
dist:
	$(PYTHON) .ci/dist.py dist $(PYTHONS)
	FASTSMTP_DIST=dist $(PYTEST) tests/project/test_package.py

clean:
	rm -rf build dist wheelhouse *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find fastsmtp \( -name '*.so' -o -name '*.c' -o -name '*.html' \) -not -path '*/status/*' -delete
	rm -f .coverage
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
