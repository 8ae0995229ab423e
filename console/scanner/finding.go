package scanner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictjson"
	"github.com/keywicket/keywicket/store/leaked"
)

// finding is a token that the scanner found, and the scanner's name for this type of token.
type finding struct {
	token     authz.Secret
	tokenType string
}

// parse reads the body of a request: an array of objects with the fields token and type. It ignores other fields, such as the place
// where the scanner found the token. The errors contain nothing of the body.
func parse(body []byte) ([]finding, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	if bracket, err := decoder.Token(); err != nil || bracket != json.Delim('[') {
		return nil, errors.New("the body is not a JSON array")
	}
	findings := []finding{}
	for decoder.More() {
		if len(findings) == maxTokens {
			return nil, fmt.Errorf("the body has more than %d tokens", maxTokens)
		}
		var item json.RawMessage
		if err := decoder.Decode(&item); err != nil {
			return nil, errors.New("the body is not JSON")
		}
		f, err := parseFinding(item)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", len(findings)+1, err)
		}
		findings = append(findings, f)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errors.New("the body is not JSON")
	}
	const space = " \t\r\n" // RFC 8259, section 2
	if len(bytes.Trim(body[decoder.InputOffset():], space)) > 0 {
		return nil, errors.New("the body continues after the array")
	}
	return findings, nil
}

func parseFinding(item []byte) (finding, error) {
	fields, err := strictjson.Object(item)
	if err != nil {
		return finding{}, err
	}
	var token, tokenType *string
	if json.Unmarshal(fields["token"], &token) != nil || token == nil || *token == "" {
		return finding{}, errors.New("the field token is missing, or is not a string")
	}
	if json.Unmarshal(fields["type"], &tokenType) != nil || tokenType == nil {
		return finding{}, errors.New("the field type is missing, or is not a string")
	}
	return finding{authz.Secret(*token), *tokenType}, nil
}

// verdict is the feedback about a finding. It has the hash of the token, so that the response contains no token.
type verdict struct {
	TokenHash string `json:"token_hash"` // SHA-256, in hex
	TokenType string `json:"token_type"`
	Label     string `json:"label"`
}

// verdictsOf returns a verdict for each finding. A token that was revoked earlier is a true positive too.
func verdictsOf(findings []finding, results []leaked.Credential) []verdict {
	verdicts := make([]verdict, len(findings))
	for i, f := range findings {
		hash := sha256.Sum256([]byte(f.token.Reveal()))
		verdicts[i] = verdict{hex.EncodeToString(hash[:]), f.tokenType, "true_positive"}
		if results[i].Result == leaked.Unknown {
			verdicts[i].Label = "false_positive"
		}
	}
	return verdicts
}
