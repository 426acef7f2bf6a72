# Shortcuts for the commands in CONTRIBUTING.md. `just` lists them.

# List the recipes
[private]
default:
    @just --list --unsorted

# Serve with the demo provider, on a database of its own
run *args:
    ECHOIC_PROVIDER=demo DATABASE_URL=sqlite:///tmp/echoic-demo.db cargo run -- {{ args }}

# Build the release binary
build:
    cargo build --release --locked

# Run every check and test, as CI does
test:
    tests/run

# Run Rust tests: all of them, or those of a nextest filter such as 'test(chat::)'
test-rust filter='all()':
    cargo nextest run -E '{{ filter }}'

# Run the contract of the SQLite store: all of it, or one file such as turns
test-contract file='':
    cargo nextest run --test it -E 'test(store_contract::sqlite::{{ file }})'

# Run the pages in a browser
test-web:
    tests/run web

# Run attacks next to a neighbor, and memory by input
test-limits:
    tests/run limits

# Run the client libraries
test-clients:
    tests/run clients

# Accept changed snapshots; read the diff before committing
snapshots:
    INSTA_UPDATE=always cargo nextest run -E 'test(snapshot) | test(transcript::) | test(project_memory::)'

# Format the Rust code
fmt:
    cargo fmt

# Lint Rust and JavaScript
lint:
    cargo fmt --check
    cargo clippy --all-targets -- --deny warnings
    tests/run lint

# Check the files for containers
compose:
    tests/run compose

# Build the internal documentation and check its links
docs:
    RUSTDOCFLAGS='--deny warnings' cargo doc --no-deps --document-private-items

# Run a benchmark: recall, search, cache or window
bench name='recall':
    cargo bench --bench {{ name }}
