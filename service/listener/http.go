package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServeHTTP serves requests until the context is canceled. Then it waits for open requests, at most for the duration in the parameter
// `drain`. The write timeout is 20 s, because the slowest requests of the issuer and the console have three steps in the database, of
// at most 5 s each.
func ServeHTTP(ctx context.Context, l net.Listener, handler http.Handler, drain time.Duration, log *slog.Logger) error {
	web := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
	}
	shutdownErr := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		shutdownErr <- web.Shutdown(ctx)
	})()
	if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	err := <-shutdownErr
	log.Info("stopped")
	return err
}
