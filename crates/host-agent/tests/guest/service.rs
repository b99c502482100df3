//! Services from images: they answer, survive a crash and an upgrade without a refused connection.
