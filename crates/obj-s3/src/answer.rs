//! What comes back.

use std::pin::Pin;
use std::task::{Context, Poll};

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::line::Answered;

/// The body of an answer, whichever way it comes.
pub(crate) enum Body {
    Sdk(SdkBody),
    Line(Answered),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Sdk(body) => Pin::new(body).poll_frame(context),
            Self::Line(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Sdk(body) => http_body::Body::is_end_stream(body),
            Self::Line(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Sdk(body) => http_body::Body::size_hint(body),
            Self::Line(body) => body.size_hint(),
        }
    }
}
