//! Says, line by line, what can be had of CUDA and cuFile here: the process in which [`hicache_gds::probe`] tries it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match hicache_gds::probe::answer(&arguments, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "hicache-gds-probe: {error}");
            ExitCode::from(2)
        }
    }
}
