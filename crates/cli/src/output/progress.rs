//! The spinner: on stderr, only on a terminal, only when something takes long (CLI spec §8.3).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Output, Token};

/// Nothing is shown for what ends sooner.
const SHOWN_AFTER: Duration = Duration::from_millis(200);
/// Time of one frame.
const FRAME: Duration = Duration::from_millis(80);
/// Braille frames, then the blank that stands when it is done.
const FRAMES: &str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ";
/// Frames without Unicode.
const FRAMES_ASCII: &str = "|/-\\ ";

impl Output {
    /// Waits for `work`, with a spinner beside `label` when that takes longer than 200 ms.
    pub(crate) async fn during<F: Future>(&self, label: &str, work: F) -> F::Output {
        let mut work = pin!(work);
        if !self.animates() {
            return work.await;
        }
        if let Ok(result) = tokio::time::timeout(SHOWN_AFTER, work.as_mut()).await {
            return result;
        }
        let spinner = Spinner::start(self, label);
        tokio::select! {
            result = &mut work => result,
            _ = tokio::signal::ctrl_c() => {
                drop(spinner);
                self.cancelled_by_signal()
            }
        }
    }

    /// Ctrl-C while waiting: the line is clean, the cursor back, then the usual exit code of that signal.
    fn cancelled_by_signal(&self) -> ! {
        self.warning("cancelled");
        std::process::exit(130)
    }
}

/// Removes its line when dropped.
struct Spinner(ProgressBar);

impl Spinner {
    fn start(output: &Output, label: &str) -> Self {
        let style = output.stderr_style();
        let frames = if style.unicode { FRAMES } else { FRAMES_ASCII };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(template) = ProgressStyle::with_template("  {spinner} {msg}") {
            bar.set_style(template.tick_chars(frames));
        }
        bar.set_message(style.paint(Token::Dim, &format!("{label} …")));
        bar.enable_steady_tick(FRAME);
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
