package api

// ForgotPassword is the body of POST /user/v1/password/forgot.
type ForgotPassword struct {
	Email string `json:"email"`
}

// ResetPassword is the body of POST /user/v1/password/reset.
type ResetPassword struct {
	Token    string `json:"token"` // from the letter
	Password string `json:"password"`
}

// MailStatus is the answer of POST /internal/v1/mail: how letters to people go out.
type MailStatus struct {
	On      bool   `json:"on"`            // a mail server is configured
	Waiting int    `json:"waiting"`       // letters that are to be sent yet
	Failed  int    `json:"failed"`        // letters that could not be sent, in the last seven days
	Why     string `json:"why,omitempty"` // what was wrong with the last one that failed or has to wait
}

// TestLetter is the body of POST /internal/v1/mail/test.
type TestLetter struct {
	To string `json:"to"`
}
