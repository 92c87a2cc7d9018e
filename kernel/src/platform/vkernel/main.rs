//! `vkernel`: Anax as a process. Everything is in `kernel::platform::vkernel`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kernel::platform::vkernel::main()
}
